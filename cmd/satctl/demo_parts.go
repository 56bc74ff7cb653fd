package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// child is a process of the demo with its output in a file.
type child struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

func startChild(cmd *exec.Cmd, log string) (*child, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }() // the process has its own
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the demo, which ends it in order
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &child{cmd, log, make(chan struct{})}
	go func() { // ends with the process
		_ = cmd.Wait()
		close(c.done)
	}()
	return c, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// stop asks the process to end, and makes it end after the grace.
func (c *child) stop(grace time.Duration) {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
		_ = c.cmd.Process.Kill()
		<-c.done
	}
}

func (c *child) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// memory returns the resident set in bytes.
func (c *child) memory() (int, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.pid()))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "VmRSS:" {
			kilobytes, err := strconv.Atoi(fields[1])
			return kilobytes << 10, err
		}
	}
	return 0, errors.New("the kernel does not say how much memory the process has")
}

func (c *child) tail() string {
	content, err := os.ReadFile(c.log)
	if err != nil {
		return err.Error()
	}
	const enough = 4000
	return string(content[max(0, len(content)-enough):])
}

func (d *demonstration) startHub(ctx context.Context) error {
	keyFile := d.path("hub.key")
	if err := os.WriteFile(keyFile, []byte(d.hubKey.private.Reveal()+"\n"), 0o600); err != nil {
		return err
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), d.options.binary, "hub") //nolint:gosec // our own binary
	cmd.Env = []string{
		"USM_HUB_LISTEN=" + net.JoinHostPort(d.net.wan, strconv.Itoa(d.hubPort)), "USM_HUB_PRIVATE_KEY_FILE=" + keyFile,
		"USM_HUB_ADDRESS=10.77.0.1", "USM_HUB_PORT=" + strconv.Itoa(demoInnerPort),
		"USM_HUB_BROKER=127.0.0.1:" + strconv.Itoa(d.rabbit.Port), "USM_HUB_PEERS_FILE=" + d.path("peers.conf"),
		"USM_STATE_DIR=" + d.path("hub-state"),
	}
	hub, err := startChild(cmd, d.path("hub.log"))
	if err != nil {
		return err
	}
	d.hub = hub
	d.onEnd(func() { hub.stop(demoStopGrace) })
	return d.until(ctx, hub, "the hub", func() bool { return udpBound(d.hubPort) })
}

// startSatellite starts it in the namespace, with the settings of enrolment.
func (d *demonstration) startSatellite(ctx context.Context) error {
	env, err := readEnvFile(d.path("satellite-" + demoSatellite + ".env"))
	if err != nil {
		return err
	}
	cmd := d.net.inside(context.WithoutCancel(ctx), d.options.binary, "run")
	cmd.Env = append(env, "USM_STATE_DIR="+d.path("satellite-state"))
	satellite, err := startChild(cmd, d.path("satellite.log"))
	if err != nil {
		return err
	}
	d.satellite = satellite
	d.onEnd(func() { satellite.stop(demoStopGrace) })
	return nil
}

// readEnvFile reads NAME=value lines, as Docker and systemd do.
func readEnvFile(path string) ([]string, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var env []string
	scanner := bufio.NewScanner(bytes.NewReader(content))
	for scanner.Scan() {
		if line := strings.TrimSpace(scanner.Text()); line != "" && !strings.HasPrefix(line, "#") {
			env = append(env, line)
		}
	}
	return env, scanner.Err()
}

// until waits for ready, for the end of the process, or for too long.
func (d *demonstration) until(ctx context.Context, process *child, what string, ready func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, demoPatience)
	defer cancel()
	for !ready() {
		if process.ended() {
			return fmt.Errorf("%s ended at once", what)
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("%s is not ready after %s", what, demoPatience)
		}
	}
	return nil
}

// udpBound says whether somebody has the UDP port.
func udpBound(port int) bool {
	for _, table := range []string{"/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"} {
		content, err := os.ReadFile(table)
		if err == nil && bytes.Contains(content, fmt.Appendf(nil, ":%04X ", port)) {
			return true
		}
	}
	return false
}

// demoNet is a network namespace, the site, with two wires to this machine:
// one towards the hub, one towards the equipment. The addresses are those for
// benchmarks (RFC 2544), which nobody has in good faith.
type demoNet struct {
	name     string
	wan, lan string // of this machine
}

func (d *demonstration) makeNet(ctx context.Context) error {
	id := strconv.Itoa(os.Getpid())
	for range 20 { // another demo may have the same numbers
		octet := strconv.Itoa(rand.IntN(256)) //nolint:gosec // no secret
		n := &demoNet{name: "satctl-demo-" + id, wan: "198.18." + octet + ".1", lan: "198.19." + octet + ".1"}
		if n.taken() {
			continue
		}
		d.net = n
		d.onEnd(func() { n.remove(context.WithoutCancel(ctx)) })
		return n.create(ctx, id)
	}
	return errors.New("no free addresses were found in 198.18.0.0/15")
}

func (n *demoNet) taken() bool {
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if strings.HasPrefix(a.String(), n.wan+"/") || strings.HasPrefix(a.String(), n.lan+"/") {
			return true
		}
	}
	return false
}

func (n *demoNet) create(ctx context.Context, id string) error {
	commands := []string{"netns add " + n.name, "-n " + n.name + " link set lo up"}
	for kind, host := range map[string]string{"w": n.wan, "l": n.lan} {
		site := strings.TrimSuffix(host, ".1") + ".2"
		here, there := "sd"+id+kind, "site-"+kind
		commands = append(commands,
			"link add "+here+" type veth peer name "+there+" netns "+n.name,
			"address add "+host+"/30 dev "+here, "link set "+here+" up",
			"-n "+n.name+" address add "+site+"/30 dev "+there, "-n "+n.name+" link set "+there+" up",
		)
	}
	for _, command := range commands {
		out, err := exec.CommandContext(ctx, "ip", strings.Fields(command)...).CombinedOutput() //nolint:gosec // of constants and numbers
		if err != nil {
			return fmt.Errorf("ip %s: %w: %s", command, err, bytes.TrimSpace(out))
		}
	}
	return nil
}

// remove takes the namespace away; the wires go with it.
func (n *demoNet) remove(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, demoStopGrace)
	defer cancel()
	_ = exec.CommandContext(ctx, "ip", "netns", "del", n.name).Run() //nolint:gosec // our own name
}

// inside is a command that runs in the namespace.
func (n *demoNet) inside(ctx context.Context, program string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", n.name, program}, args...)...) //nolint:gosec // our own binaries
}

// demoAsRoot runs the demo in namespaces where we are root, without being root.
func demoAsRoot(ctx context.Context, self string, args []string, sys system) error {
	const script = `mount -t tmpfs tmpfs /run && ip link set lo up && exec "$@"`
	command := append([]string{
		"--user", "--map-root-user", "--net", "--mount", "--propagation", "private",
		"sh", "-c", script, "sh", self, "demo",
	}, args...)
	cmd := exec.CommandContext(ctx, "unshare", command...) //nolint:gosec // ourselves
	cmd.Stdin, cmd.Stdout, cmd.Stderr = sys.Stdin, sys.Stdout, sys.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = demoPatience
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit):
		return codedError{exitJob, errors.New("the demo in a user namespace did not end well; where user namespaces are not allowed, run it as root")}
	default:
		return err
	}
}

// realRoot says whether root here is root of the machine.
func realRoot() bool {
	uids, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && slices.Equal(strings.Fields(string(uids)), []string{"0", "0", "4294967295"})
}
