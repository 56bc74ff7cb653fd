// Package lab starts the real services that tests and the demo need: RabbitMQ,
// snmpd, sshd and others, as Debian ships them. Each runs on loopback, on
// ports and in a folder of its own, under the user who asked, and is ended by
// its process id. A service that is not installed is an error which says what
// to install; nothing is left out silently.
//
// It is no part of the product: nothing but tests and `satctl demo` imports it.
package lab

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// startLimit bounds the start of any service on a busy machine.
const startLimit = 2 * time.Minute

// process is a service that runs, in a process group of its own.
type process struct {
	cmd  *exec.Cmd
	log  string // path of its output
	done chan struct{}
	once sync.Once
}

// start runs a program with its output in a file.
func start(log string, env []string, name string, args ...string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	_ = out.Close()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(name), err)
	}
	p := &process{cmd: cmd, log: log, done: make(chan struct{})}
	go func() { // ends with the process
		defer close(p.done)
		_ = cmd.Wait()
	}()
	return p, nil
}

// kill ends the process and its children at once.
func (p *process) kill() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}

// stop asks first.
func (p *process) stop() {
	p.once.Do(func() {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(10 * time.Second):
		}
		p.kill()
	})
}

// tail returns the end of the output, for errors.
func (p *process) tail() string {
	text, _ := os.ReadFile(p.log)
	if len(text) > 2000 {
		text = text[len(text)-2000:]
	}
	return strings.TrimSpace(string(text))
}

// wait asks ready until it says yes, the process has ended, or it took too long.
func (p *process) wait(ctx context.Context, what string, ready func() error) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended while it started: %s", what, p.tail())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready after %s: %w; its output: %s", what, startLimit, err, p.tail())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Port returns a TCP and UDP port of loopback that is free now. It is below
// the range from which the kernel takes ports for outgoing connections, so
// that nothing else takes it before the service starts.
func Port() int {
	for {
		port := 20000 + rand.N(12000)
		tcp, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			continue
		}
		udp, err := net.ListenPacket("udp", "127.0.0.1:"+strconv.Itoa(port))
		_ = tcp.Close()
		if err != nil {
			continue
		}
		_ = udp.Close()
		return port
	}
}

var errMissing = errors.New("is not installed")

// find returns the path of a program.
func find(name, pkg string, places ...string) (string, error) {
	for _, place := range places {
		if info, err := os.Stat(place); err == nil && info.Mode()&0o111 != 0 {
			return place, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s %w: run make deps, or apt-get install %s", name, errMissing, pkg)
	}
	return path, nil
}

// Fuzzing says whether this process looks for inputs that break a parser: a
// TestMain then starts nothing. Go starts a process more for it.
func Fuzzing() bool {
	flag.Parse()
	f := flag.Lookup("test.fuzz")
	return f != nil && f.Value.String() != ""
}
