package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
)

// Exit statuses, part of what the README promises.
const (
	exitOK          = 0
	exitFailed      = 1 // it ran and failed; health: not healthy; check: something to fix
	exitUsage       = 2 // wrong command line or settings: trying again will not help
	exitInterrupted = 3 // stopped by a signal, and jobs were still running at the end of the drain
)

// version is set by the linker (-X main.version=…).
var version = "development"

const usage = `satellite runs network jobs from a RabbitMQ queue on the equipment of this site.

Usage:
  satellite [run]          the service (default)
  satellite check [--json] the doctor: finds what keeps the service from working
  satellite health         exit status 0 where the service on this machine works
  satellite status [--json] how the service on this machine is doing, in words
  satellite hub            the other end of the tunnel, beside the broker
  satellite peers [--json] the satellites that the hub on this machine sees
  satellite version        the version of this program

Everything is set by environment variables; the README lists them. The least:

  US_AMQP_DSN=amqp://user:password@broker:5672/%2f USM_POLLER_SATELLITE_ID=7 satellite

Each secret may come from a file: US_AMQP_DSN_FILE=/run/secrets/dsn and so on.

Exit status: 0 ended in good order, 1 failed, 2 wrong usage or settings,
3 stopped while jobs were still running.
`

// app is what a command gets: its surroundings, so that tests can give others.
type app struct {
	env    map[string]string
	args   []string // after the command's name
	stdout io.Writer
	stderr io.Writer
}

func dispatch(ctx context.Context, args []string, env map[string]string, stdout, stderr io.Writer) int {
	name := "run"
	if len(args) > 0 {
		name, args = args[0], args[1:]
	}
	commands := map[string]func(context.Context, app) error{
		"run": runSatellite, "hub": runHub, "health": runHealth, "status": runStatus, "check": runCheck, "peers": runPeers,
	}
	switch name {
	case "version", "--version", "-v":
		_, _ = fmt.Fprintln(stdout, "satellite", version, revision(), runtime.Version(), runtime.GOOS+"/"+runtime.GOARCH)
		return exitOK
	case "help", "--help", "-h":
		_, _ = fmt.Fprint(stdout, usage)
		return exitOK
	}
	command, ok := commands[name]
	if !ok {
		_, _ = fmt.Fprintf(stderr, "satellite: there is no command %q; see satellite --help\n", name)
		return exitUsage
	}
	for _, arg := range args {
		if arg == "--help" || arg == "-h" {
			_, _ = fmt.Fprint(stdout, usage)
			return exitOK
		}
	}
	return exitStatus(command(ctx, app{env, args, stdout, stderr}), stderr)
}

// exitError ends a command with its own status; without a message it says
// nothing more.
type exitError struct {
	code    int
	message string
}

func (e *exitError) Error() string { return e.message }

func usageError(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Sprintf(format, args...)}
}

func exitStatus(err error, stderr io.Writer) int {
	if err == nil {
		return exitOK
	}
	code, message := exitFailed, err.Error()
	var exit *exitError
	if errors.As(err, &exit) {
		code, message = exit.code, exit.message
	}
	if message != "" {
		_, _ = fmt.Fprintln(stderr, "satellite:", message)
	}
	return code
}

func revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return s.Value[:12]
		}
	}
	return "-"
}

// noArgs refuses arguments where a command takes none, and says which flags
// were given of those it knows.
func (a app) flags(known ...string) (map[string]bool, error) {
	given := make(map[string]bool)
	for _, arg := range a.args {
		found := false
		for _, k := range known {
			if arg == k {
				given[k], found = true, true
			}
		}
		if !found {
			return nil, usageError("%q is no argument of this command; see satellite --help", arg)
		}
	}
	return given, nil
}
