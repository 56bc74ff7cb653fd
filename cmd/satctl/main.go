// Satctl is the core's side of the satellites: it sends them jobs, enrols and
// revokes them, and shows the whole path on one machine.
//
//	satctl submit --satellite 7 --action icmp.ping --target 192.0.2.10
//
// It holds what people type; what runs at a remote site is cmd/satellite.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], system{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv})
	stop()
	os.Exit(code)
}
