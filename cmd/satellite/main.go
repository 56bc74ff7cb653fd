// Command satellite is the daemon of a remote site: it takes network jobs from
// a RabbitMQ queue, runs them on telecom equipment and brings the results back.
// `satellite hub` is its counterpart beside the broker.
package main

import (
	"context"
	"io"
	"log" //nolint:depguard // only to silence it
	"os"
	"os/signal"
	"syscall"
)

func main() {
	log.SetOutput(io.Discard) // net/http prints there what a device says unasked, as it is; our own log is slog
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	code := dispatch(ctx, os.Args[1:], environment(os.Environ()), os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
