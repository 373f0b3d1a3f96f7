// Package floors holds the test that keeps the house's floors: a package
// imports only what stands below it. The table in the test mirrors the drawing
// in the design.
package floors
