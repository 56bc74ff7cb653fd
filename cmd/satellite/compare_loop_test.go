//go:build compare

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// bareLoops compares what a client that only takes and publishes makes of the
// ways (deploy/lab/bareloop): the ways themselves, without a satellite's work.
func (b *bench) bareLoops(size int) [][]string {
	n, aimRate, aimCPU := 20000, 1.5, 0.5
	if size > 1000 {
		n, aimRate, aimCPU = 8000, 1.25, 0.6
	}
	what := fmt.Sprintf("bare loop, %d B", size)
	rates, cpus := b.turns(what, func(w *way) work { return b.bareLoop(w, size, n) })
	return b.beside(what, rates, cpus, aimRate, aimCPU)
}

// bareLoop lets the client work through n messages of a size that wait.
func (b *bench) bareLoop(w *way, size, n int) work {
	b.t.Helper()
	load := []string{"-n", strconv.Itoa(n), "-size", strconv.Itoa(size)}
	sh(b.t, slices.Concat([]string{b.loop, "-fill"}, load, []string{b.dsn("127.0.0.1")})...)
	args := append([]string{"netns", "exec", b.ns, b.loop}, load...)
	if w.config != "" {
		args = append(args, "-config", w.config)
	}
	if dir := os.Getenv("COMPARE_PROFILE"); dir != "" {
		args = append(args, "-profile", filepath.Join(dir, fmt.Sprintf("%s-%d.pprof", strings.ReplaceAll(w.name, " ", "-"), size)))
	}
	daemon := time.Duration(0)
	if w.daemon != nil {
		daemon = processCPU(w.daemon.Pid)
	}
	cmd := exec.Command("ip", append(args, w.dsn)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		b.t.Fatalf("bare loop by %s: %v", w.name, err)
	}
	if w.daemon != nil {
		daemon = processCPU(w.daemon.Pid) - daemon
	}
	var report struct {
		JobsPerSecond float64 `json:"jobs_per_second"`
		CPUMicros     float64 `json:"cpu_us_per_job"`
	}
	b.must(json.Unmarshal(out, &report))
	return work{rate: report.JobsPerSecond, cpu: time.Duration(report.CPUMicros*float64(time.Microsecond)) + daemon/time.Duration(n)}
}
