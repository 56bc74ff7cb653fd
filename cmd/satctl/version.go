package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
)

const versionHelp = `Usage:
  satctl version

Prints the version, the revision it was built from, and the Go version.
`

// version is set by the linker (-X main.version=…).
var version = "development"

func showVersion(_ context.Context, args []string, sys system) error {
	flags := newFlags("version")
	if err := parse(flags, args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return usagef("takes no arguments")
	}
	fmt.Fprintf(sys.Stdout, "satctl %s (revision %s, %s %s/%s)\n", version, revision(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return nil
}

func revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value[:min(12, len(s.Value))]
		}
	}
	return "unknown"
}
