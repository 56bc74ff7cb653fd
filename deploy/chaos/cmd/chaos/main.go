// Chaos kills and separates the parts of a small installation at random, under
// load, and says whether a job was lost or a write was run twice.
//
//	chaos -binary bin/satellite -seed 1 -duration 60s
//
// Exit status: 0 no violation, 1 violations, 2 the run proves nothing.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"usm-satellite/deploy/chaos"
	"usm-satellite/deploy/chaos/ledger"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, out io.Writer) int {
	flags := flag.NewFlagSet("chaos", flag.ContinueOnError)
	flags.SetOutput(out)
	binary := flags.String("binary", "bin/satellite", "the satellite")
	seed := flags.Uint64("seed", 0, "of the random choices; 0: a fresh one")
	duration := flags.Duration("duration", 45*time.Second, "of the faults")
	kills := flags.Int("kills", 0, "go on until so many satellites were killed, a tenth as many stopped and cut off, a fiftieth as many hubs and brokers killed")
	replicas := flags.Int("replicas", 2, "of the satellite; half of them behind the tunnel")
	failpoints := flags.Bool("failpoints", false, "satellites end themselves at failpoints; the binary was built with the tag failpoints")
	matrix := flags.Int("matrix", 0, "in place of random faults: so often end a satellite at every failpoint of every class of job")
	keep := flags.Bool("keep", false, "keep the files of the run")
	judge := flags.String("judge", "", "judge the files of an earlier run again")
	if flags.Parse(args) != nil {
		return 2
	}
	if *judge != "" {
		return verdict(out, *judge, "files of another run")
	}
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	dir, err := os.MkdirTemp("", "chaos-")
	if err != nil {
		_, _ = fmt.Fprintln(out, err)
		return 2
	}
	path, _ := filepath.Abs(*binary)
	_, _ = fmt.Fprintf(out, "chaos: seed %d, files in %s\n", *seed, dir)
	name := fmt.Sprintf("seed %d", *seed)
	options := chaos.Options{
		Binary: path, Dir: dir, Seed: *seed, Duration: *duration, Kills: *kills, Replicas: *replicas, Failpoints: *failpoints, Out: out,
	}
	if *matrix > 0 {
		err = chaos.Matrix(ctx, options, *matrix)
	} else {
		err = chaos.Run(ctx, options)
	}
	if err != nil {
		_, _ = fmt.Fprintf(out, "chaos: the run proves nothing: %v (%s)\n", err, name)
		return 2
	}
	code := verdict(out, dir, name)
	if code == 0 && !*keep {
		_ = os.RemoveAll(dir)
	}
	return code
}

// verdict judges the files of a run and returns the exit status.
func verdict(out io.Writer, dir, name string) int {
	report, err := chaos.Judge(dir)
	if err != nil {
		_, _ = fmt.Fprintf(out, "chaos: the run proves nothing: %v (%s)\n", err, name)
		return 2
	}
	show(out, report)
	if n := len(report.Violations); n > 0 {
		_, _ = fmt.Fprintf(out, "chaos: %d promises broken; %s, files in %s\n", n, name, dir)
		return 1
	}
	_, _ = fmt.Fprintln(out, "chaos: every promise kept")
	return 0
}

func show(out io.Writer, r ledger.Report) {
	_, _ = fmt.Fprintf(out, "%6d jobs, %d of them writes, %d of these run\n", r.Jobs, r.Writes, r.Runs)
	for _, status := range slices.Sorted(maps.Keys(r.Statuses)) {
		_, _ = fmt.Fprintf(out, "%6d results: %s\n", r.Statuses[status], status)
	}
	_, _ = fmt.Fprintf(out, "%6d results came again, %d reads came out otherwise when run again, %d jobs expired in the queue, %d on their return to it\n",
		r.Duplicates, r.Restated, r.Expired, r.Dropped)
	for _, kind := range slices.Sorted(maps.Keys(r.Faults)) {
		_, _ = fmt.Fprintf(out, "%6d faults: %s\n", r.Faults[kind], kind)
	}
	for _, v := range r.Violations[:min(len(r.Violations), 50)] {
		_, _ = fmt.Fprintln(out, "BROKEN", v)
	}
}
