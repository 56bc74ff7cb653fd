package chaos

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"usm-satellite/deploy/chaos/ledger"
)

// process is a program that is started again whenever it was killed.
type process struct {
	name, binary, log string
	args, env         []string

	mu    sync.Mutex
	cmd   *exec.Cmd // guarded by mu
	ended chan struct{}
}

// start runs the program, with further settings for this one time.
func (p *process) start(settings ...string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }() // the process has its own
	cmd := exec.Command(p.binary, p.args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = slices.Concat(p.env, settings), out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	ended := make(chan struct{})
	go func() { // ends with the process
		_ = cmd.Wait()
		close(ended)
	}()
	p.cmd, p.ended = cmd, ended
	return nil
}

func (p *process) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		_ = p.cmd.Process.Signal(s)
	}
}

// wait waits for the end of the process; after a limit it is killed.
func (p *process) wait(limit time.Duration) (onTime bool) {
	p.mu.Lock()
	ended := p.ended
	p.mu.Unlock()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-ended:
		return true
	case <-timer.C:
		p.signal(syscall.SIGKILL)
		<-ended
		return false
	}
}

// waitEnd waits for the process to end by itself.
func (p *process) waitEnd(ctx context.Context, limit time.Duration) bool {
	p.mu.Lock()
	ended := p.ended
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	select {
	case <-ended:
		return true
	case <-ctx.Done():
		return false
	}
}

// hasEnded says that the process ended by itself.
func (p *process) hasEnded() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// sample measures the process; zero: it is not there.
func (p *process) sample() ledger.Fault {
	p.mu.Lock()
	pid := p.cmd.Process.Pid
	p.mu.Unlock()
	now := time.Now()
	s := ledger.Fault{At: now, Until: now, Kind: ledger.Sample}
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	if text, err := os.ReadFile(filepath.Join(proc, "statm")); err == nil {
		if fields := bytes.Fields(text); len(fields) > 1 {
			pages, _ := strconv.ParseInt(string(fields[1]), 10, 64)
			s.Resident = pages * int64(os.Getpagesize())
		}
	}
	files, _ := os.ReadDir(filepath.Join(proc, "fd"))
	s.Files = len(files)
	return s
}
