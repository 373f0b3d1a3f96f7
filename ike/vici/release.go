package vici

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
)

// Release is a version of strongSwan: listings have the fields of that one, for scripts
// match them by their order. The zero value is the newest that is known.
type Release struct{ Major, Minor, Patch int }

// What came with a release.
var (
	withPorts     = Release{6, 0, 3} // list-conn: local_port, remote_port; list-policy: reqid
	withProposals = Release{6, 1, 0} // list-conn: proposals
)

// has reports whether the release is that one or a later one.
func (r Release) has(since Release) bool {
	if r == (Release{}) {
		return true
	}
	return slices.Compare([]int{r.Major, r.Minor, r.Patch}, []int{since.Major, since.Minor, since.Patch}) >= 0
}

var releasePattern = regexp.MustCompile(`^strongSwan (\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?\S* swanctl`)

// ParseRelease reads the first line of swanctl's help, "strongSwan 6.0.1 swanctl".
// Errors: it is another line.
func ParseRelease(line string) (Release, error) {
	m := releasePattern.FindStringSubmatch(line)
	if m == nil {
		return Release{}, fmt.Errorf("release of swanctl: expected \"strongSwan VERSION swanctl\", got %q", line)
	}
	number := func(s string) int {
		n, _ := strconv.Atoi(cmp.Or(s, "0"))
		return n
	}
	return Release{number(m[1]), number(m[2]), number(m[3])}, nil
}
