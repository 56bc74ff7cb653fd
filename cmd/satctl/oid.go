package main

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// sortedOIDs returns the keys in the order of the tree: 1.3.10 after 1.3.9.
func sortedOIDs(set map[string]bool) []string {
	return slices.SortedFunc(maps.Keys(set), func(a, b string) int {
		return slices.CompareFunc(strings.Split(a, "."), strings.Split(b, "."), func(x, y string) int {
			m, errM := strconv.ParseUint(x, 10, 64)
			n, errN := strconv.ParseUint(y, 10, 64)
			switch {
			case errM != nil || errN != nil:
				return strings.Compare(x, y)
			case m < n:
				return -1
			case m > n:
				return 1
			}
			return 0
		})
	})
}
