package main

import (
	"math"
	"os"
	"path/filepath"
	"testing"
)

func TestMemoryLimit(t *testing.T) {
	tree := t.TempDir()
	for file, text := range map[string]string{
		"memory.max":                            "max\n",
		"system.slice/memory.max":               "268435456\n",
		"system.slice/satellite/memory.max":     "max\n",
		"memory/memory.limit_in_bytes":          "9223372036854771712\n",
		"memory/docker/a/memory.limit_in_bytes": "67108864\n",
	} {
		if err := os.MkdirAll(filepath.Join(tree, filepath.Dir(file)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(tree, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for groups, want := range map[string]int64{
		"0::/system.slice/satellite\n": 256 << 20,
		"0::/\n":                       math.MaxInt64,
		"0::/of/the/host\n":            math.MaxInt64,
		"4:cpu:/docker/a\n3:memory:/docker/a\n0::/\n": 64 << 20,
		"nonsense": math.MaxInt64,
	} {
		if got := memoryLimit(groups, tree); got != want {
			t.Errorf("%q: %d, want %d", groups, got, want)
		}
	}
}
