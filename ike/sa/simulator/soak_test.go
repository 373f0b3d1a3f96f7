//go:build soak

package simulator

import "testing"

// TestSoak runs many more seeds than TestSeeds, from where that ends on.
func TestSoak(t *testing.T) {
	run(t, 10_001, count(10_000, 500_000))
}
