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

func version(_ context.Context, args []string, sys system) error {
	flags := newFlags("version")
	if err := parse(flags, args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return usagef("takes no arguments")
	}
	revision, changed := "unknown", ""
	module := "devel"
	if info, ok := debug.ReadBuildInfo(); ok {
		if info.Main.Version != "" {
			module = info.Main.Version
		}
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				revision = s.Value
			case "vcs.modified":
				if s.Value == "true" {
					changed = " with changes"
				}
			}
		}
	}
	fmt.Fprintf(sys.Stdout, "satctl %s (revision %s%s, %s %s/%s)\n", module, revision, changed, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return nil
}
