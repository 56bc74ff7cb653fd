package main

import (
	"context"
	"fmt"
)

const keygenHelp = `Usage:
  satctl keygen FILE

Makes a WireGuard key for a site: the private half goes to a new FILE that only
its owner can read and never leaves the machine; the public half, for
satctl enroll --public-key, is printed.

Example:
  satctl keygen /etc/satellite/wg.key
`

func keygen(_ context.Context, args []string, sys system) error {
	flags := newFlags("keygen")
	if err := parse(flags, args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return usagef("takes one argument, the file for the private key")
	}
	keys, err := newKeyPair()
	if err != nil {
		return err
	}
	if err := writeSecret(flags.Arg(0), keys.private.Reveal()+"\n"); err != nil {
		return err
	}
	fmt.Fprintln(sys.Stdout, keys.public)
	return nil
}
