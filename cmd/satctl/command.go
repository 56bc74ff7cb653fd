package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
)

// The exit codes, part of what scripts rely on.
const (
	exitOK     = 0
	exitJob    = 1 // a job was not ok, or what was asked for failed
	exitUsage  = 2 // the command line, a setting or a file is wrong
	exitBroker = 3 // the broker, or its management API, could not be used
)

// system is all that a command has of the world around it.
type system struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string
}

// codedError ends the program with a code of its own.
type codedError struct {
	code int
	err  error
}

func (e codedError) Error() string { return e.err.Error() }
func (e codedError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return codedError{exitUsage, fmt.Errorf(format, args...)}
}

func brokerError(err error) error { return codedError{exitBroker, err} }

// errQuiet ends the program with exitJob where all has been said already.
var errQuiet = errors.New("a job was not ok")

type command struct {
	help string
	run  func(ctx context.Context, args []string, sys system) error
}

func find(name string) (command, bool) {
	switch name {
	case "submit":
		return command{submitHelp, submit}, true
	case "enroll":
		return command{enrollHelp, enroll}, true
	case "revoke":
		return command{revokeHelp, revoke}, true
	case "keygen":
		return command{keygenHelp, keygen}, true
	case "top":
		return command{topHelp, top}, true
	case "simulate":
		return command{simulateHelp, simulate}, true
	case "demo":
		return command{demoHelp, demo}, true
	case "version":
		return command{versionHelp, showVersion}, true
	default:
		return command{}, false
	}
}

const help = `satctl is the core's side of the satellites.

Usage:
  satctl COMMAND [options]

Commands:
  submit    send jobs to a satellite and print what it answers
  enroll    make keys, address, broker user and settings of a new satellite
  revoke    cut a satellite off
  keygen    make a WireGuard key that stays at the site
  top       show the satellites live
  simulate  be a network device, good or bad, to try jobs on
  demo      show the whole path on this machine, with real parts
  version   print the version

satctl COMMAND --help says more, with examples.

Exit codes:
  0  all is done and every job was ok
  1  a job was not ok
  2  the command line, a setting or a file is wrong
  3  the broker could not be used
`

// run is main without the process around it; it returns the exit code.
func run(ctx context.Context, args []string, sys system) int {
	if len(args) == 0 {
		fmt.Fprint(sys.Stderr, help)
		return exitUsage
	}
	name, args := args[0], args[1:]
	switch name {
	case "help", "--help", "-help", "-h":
		fmt.Fprint(sys.Stdout, help)
		return exitOK
	case "--version":
		name = "version"
	}
	cmd, ok := find(name)
	if !ok {
		fmt.Fprintf(sys.Stderr, "satctl: there is no command %q\nhint: satctl --help lists them\n", name)
		return exitUsage
	}
	err := cmd.run(ctx, args, sys)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(sys.Stdout, cmd.help)
		return exitOK
	}
	return report(name, err, sys.Stderr)
}

func report(name string, err error, stderr io.Writer) int {
	if err == nil {
		return exitOK
	}
	if !errors.Is(err, errQuiet) {
		fmt.Fprintf(stderr, "satctl %s: %v\n", name, err)
	}
	var coded codedError
	if !errors.As(err, &coded) {
		return exitJob
	}
	if coded.code == exitUsage {
		fmt.Fprintf(stderr, "hint: satctl %s --help\n", name)
	}
	return coded.code
}

// newFlags makes a flag set that prints nothing by itself.
func newFlags(name string) *flag.FlagSet {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	return flags
}

// parse reads the options. What is wrong with the command line is a usage
// error; a value is not quoted where it may be a secret.
func parse(flags *flag.FlagSet, args []string) error {
	err := flags.Parse(args)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, flag.ErrHelp):
		return err
	default:
		return usagef("%s", doubleDash(err.Error()))
	}
}

// doubleDash writes the options in messages as the help does.
func doubleDash(message string) string {
	for _, before := range []string{": -", "for -", "flag -"} {
		message = strings.Replace(message, before, before+"-", 1)
	}
	return strings.Replace(strings.Replace(message, "---", "--", 1), "flag provided but not defined", "there is no option", 1)
}

// listFlag is an option that may be given more than once.
type listFlag []string

func (l *listFlag) String() string { return strings.Join(*l, " ") }

func (l *listFlag) Set(value string) error {
	*l = append(*l, value)
	return nil
}
