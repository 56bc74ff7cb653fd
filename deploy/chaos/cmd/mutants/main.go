// Mutants breaks the satellite in known ways, one at a time, and says whether
// the chaos run notices. A check that would pass them proves nothing.
//
//	mutants [-run text] [-duration 20s]
//
// Exit status: 0 each mutant was found, 1 one was not, 2 it could not be tried.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"usm-satellite/deploy/chaos"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, out io.Writer) int {
	flags := flag.NewFlagSet("mutants", flag.ContinueOnError)
	flags.SetOutput(out)
	only := flags.String("run", "", "only mutants with this in their name")
	duration := flags.Duration("duration", 20*time.Second, "of the faults")
	tries := flags.Int("tries", 3, "runs, each with another seed, until a mutant counts as not found")
	if flags.Parse(args) != nil {
		return 2
	}
	code := 0
	for _, m := range mutants() {
		if !strings.Contains(m.name, *only) {
			continue
		}
		by, err := m.try(ctx, *duration, *tries)
		switch {
		case err != nil:
			_, _ = fmt.Fprintf(out, "NOT TRIED  %s: %v\n", m.name, err)
			return 2
		case len(by) == 0:
			_, _ = fmt.Fprintf(out, "NOT FOUND  %s\n", m.name)
			code = 1
		default:
			_, _ = fmt.Fprintf(out, "found      %s\n           by %s\n", m.name, strings.Join(by, "; "))
		}
	}
	return code
}

// try builds the mutant beside the tree and returns the promises that it was
// seen to break.
func (m mutant) try(ctx context.Context, duration time.Duration, tries int) (by []string, err error) {
	dir, err := os.MkdirTemp("", "mutant-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	overlay, err := m.overlay(dir)
	if err != nil {
		return nil, err
	}
	if m.test != "" {
		return m.meetTest(ctx, overlay)
	}
	binary := filepath.Join(dir, "satellite")
	cmd := exec.CommandContext(ctx, "go", "build", "-overlay", overlay, "-o", binary, "./cmd/satellite")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("it does not compile: %s", text)
	}
	for seed := range tries {
		runDir := filepath.Join(dir, fmt.Sprint("run", seed))
		if err := os.Mkdir(runDir, 0o700); err != nil {
			return nil, err
		}
		err := chaos.Run(ctx, chaos.Options{Binary: binary, Dir: runDir, Seed: uint64(seed + 1), Duration: duration, Out: io.Discard})
		if err != nil {
			return nil, err
		}
		report, err := chaos.Judge(runDir)
		if err != nil {
			return nil, err
		}
		for _, v := range report.Violations {
			if !slices.Contains(by, v.Invariant) {
				by = append(by, v.Invariant)
			}
		}
		if len(by) > 0 {
			break
		}
	}
	slices.Sort(by)
	return by, nil
}

// meetTest says whether a test of the mutant's package fails with it.
func (m mutant) meetTest(ctx context.Context, overlay string) (by []string, err error) {
	text, err := exec.CommandContext(ctx, "go", "test", "-count=1", "-overlay", overlay, "-run", "^"+m.test+"$", "./"+filepath.Dir(m.file)).CombinedOutput()
	switch {
	case err == nil:
		return nil, nil
	case strings.Contains(string(text), "--- FAIL: "+m.test):
		return []string{m.test}, nil
	default:
		return nil, fmt.Errorf("the test could not be run: %s", text)
	}
}

// overlay writes the changed file beside the tree, which is not touched: the
// compiler is told to take the one for the other.
func (m mutant) overlay(dir string) (path string, err error) {
	source, err := os.ReadFile(m.file)
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(source), m.old); n != 1 {
		return "", fmt.Errorf("its text is %d times in %s: the mutant must follow the code", n, m.file)
	}
	root, err := os.Getwd()
	if err != nil {
		return "", err
	}
	changed, added := filepath.Join(dir, "changed.go"), filepath.Join(dir, "added.go")
	path = filepath.Join(dir, "overlay.json")
	replace := fmt.Sprintf(`{"Replace": {%q: %q, %q: %q}}`, filepath.Join(root, m.file), changed, filepath.Join(root, "jobs/mutant.go"), added)
	for path, text := range map[string]string{
		changed: strings.Replace(string(source), m.old, m.new, 1), added: onceAcked, path: replace,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	return path, nil
}
