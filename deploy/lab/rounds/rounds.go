// Package rounds is for tests that measure: how often they try a thing, and how
// they say what came of it.
package rounds

import (
	"os"
	"slices"
	"strconv"
	"testing"
	"time"
)

// Of returns how many rounds the environment variable asks for; unset, it is
// the usual number.
func Of(t *testing.T, variable string, usual int) int {
	t.Helper()
	text, _ := os.LookupEnv(variable)
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is not a number of rounds", variable, text)
	}
	return n
}

// Log sorts what was measured, and logs its median, best and worst.
func Log(t *testing.T, what string, took []time.Duration) {
	t.Helper()
	slices.Sort(took)
	short := func(d time.Duration) time.Duration {
		if d < 10*time.Millisecond {
			return d.Round(10 * time.Microsecond)
		}
		return d.Round(time.Millisecond)
	}
	t.Logf("%s: median %s, best %s, worst %s of %d", what, short(took[len(took)/2]), short(took[0]), short(took[len(took)-1]), len(took))
}
