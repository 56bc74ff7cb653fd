package main

import (
	"log/slog"
	"math"
	"os"
	"path"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
)

// limitMemory sets the soft limit of Go's memory from the container's or the
// unit's, where GOMEMLIMIT is not set: the collector then works harder before
// the kernel ends the process.
func limitMemory(env map[string]string, log *slog.Logger) {
	if env["GOMEMLIMIT"] != "" {
		return
	}
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return
	}
	if limit := memoryLimit(string(groups), "/sys/fs/cgroup"); limit < math.MaxInt64 {
		debug.SetMemoryLimit(limit * 8 / 10)
		log.Debug("soft memory limit set", "bytes", limit*8/10, "of", limit)
	}
}

// memoryLimit is the least limit, in bytes, of the control groups that a
// process is in (cgroups(7)), by its /proc/PID/cgroup and the tree of groups.
func memoryLimit(groups, tree string) int64 {
	least := int64(math.MaxInt64)
	for line := range strings.Lines(groups) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		dir, file := tree, "memory.max" // version 2: "0::/path"
		switch {
		case fields[1] == "memory":
			dir, file = filepath.Join(tree, "memory"), "memory.limit_in_bytes"
		case fields[1] != "":
			continue
		}
		// A container may see its own group as the root, or by its outer path.
		for group := path.Clean("/" + fields[2]); ; group = path.Dir(group) {
			least = min(least, readLimit(filepath.Join(dir, group, file)))
			if group == "/" {
				break
			}
		}
	}
	return least
}

// readLimit reads a limit; none, or one beyond any machine, is no limit.
func readLimit(file string) int64 {
	text, err := os.ReadFile(file)
	if err != nil {
		return math.MaxInt64
	}
	limit, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil || limit <= 0 || limit >= 1<<40 {
		return math.MaxInt64
	}
	return limit
}
