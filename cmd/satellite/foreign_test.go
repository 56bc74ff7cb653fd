package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"usm-satellite/broker"
	"usm-satellite/tunnel"
)

// A WireGuard server that is not ours, wireguard-go on a TUN device in a
// namespace, leads to the broker; the satellite gets a wg-quick file.
func TestOwnWireGuardServer(t *testing.T) {
	s, agent := newSite(t, rabbit), snmpd(t)
	ns, outer := namespace(t)
	server, client := tunnel.NewPrivateKey(), tunnel.NewPrivateKey()
	wireguardGo(t, ns, server, client.Public())
	relayInside(t, ns, "10.99.0.1:5672", "127.0.0.1:"+strconv.Itoa(rabbit.Port))

	quick := filepath.Join(t.TempDir(), "wg0.conf")
	text := fmt.Sprintf("[Interface]\nPrivateKey = %s\nAddress = 10.99.0.2/32\n\n[Peer]\nPublicKey = %s\nEndpoint = %s:51820\nAllowedIPs = 10.99.0.0/24\n",
		client.Reveal(), server.Public(), outer)
	s.must(os.WriteFile(quick, []byte(text), 0o600))
	s.satellite("USM_WG_CONFIG_FILE", quick, "USM_WG_BROKER", "10.99.0.1:5672")
	allOK(t, s.ask(s.core(broker.CoreOptions{}), kinds("a-", agent.Port)), "wireguard+amqp")
}

func sh(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s (this test needs root and the Debian packages iproute2, wireguard-go, wireguard-tools)", strings.Join(args, " "), err, out)
	}
}

// namespace makes a network namespace with a wire to this one; outer is its
// address there.
func namespace(t *testing.T) (ns, outer string) {
	t.Helper()
	ns, _, outer = namespaceOf(t, "e", os.Getpid())
	return ns, outer
}

// namespaceOf makes one of several; host is the end of the wire that is here.
func namespaceOf(t *testing.T, letter string, n int) (ns, host, outer string) {
	t.Helper()
	ns = fmt.Sprintf("sat%s%d", letter, n)
	base := fmt.Sprintf("10.%d.%d.", 160+n>>14&15, n>>6&255)
	host, outer = base+strconv.Itoa(n<<2&252|1), base+strconv.Itoa(n<<2&252|2)
	sh(t, "ip", "netns", "add", ns)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "delete", ns).Run() })
	sh(t, "ip", "link", "add", ns+"h", "type", "veth", "peer", "name", "eth0", "netns", ns)
	t.Cleanup(func() { _ = exec.Command("ip", "link", "delete", ns+"h").Run() })
	sh(t, "ip", "address", "add", host+"/30", "dev", ns+"h")
	sh(t, "ip", "link", "set", ns+"h", "up")
	for _, line := range []string{"address add " + outer + "/30 dev eth0", "link set eth0 up", "link set lo up"} {
		sh(t, append([]string{"ip", "-n", ns}, strings.Fields(line)...)...)
	}
	return ns, host, outer
}

// nft runs a command of a namespace's firewall.
func nft(t *testing.T, ns, line string) {
	t.Helper()
	sh(t, append([]string{"ip", "netns", "exec", ns, "nft"}, strings.Fields(line)...)...)
}

func wireguardGo(t *testing.T, ns string, key tunnel.PrivateKey, peer tunnel.PublicKey) {
	t.Helper()
	out := &output{}
	cmd := exec.Command("ip", "netns", "exec", ns, "wireguard-go", "-f", ns)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	wait(t, "wireguard-go to make its device", func() bool {
		return exec.Command("ip", "netns", "exec", ns, "wg", "show", ns).Run() == nil
	})
	conf := filepath.Join(t.TempDir(), "server.conf")
	text := fmt.Sprintf("[Interface]\nPrivateKey = %s\nListenPort = 51820\n[Peer]\nPublicKey = %s\nAllowedIPs = 10.99.0.2/32\n", key.Reveal(), peer)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	sh(t, "ip", "netns", "exec", ns, "wg", "setconf", ns, conf)
	sh(t, "ip", "-n", ns, "address", "add", "10.99.0.1/24", "dev", ns)
	sh(t, "ip", "-n", ns, "link", "set", ns, "up", "mtu", "1280")
}

// within runs f on a thread in a namespace: sockets that it makes stay there.
// The thread comes back and lives on, for with a thread die the processes that
// it started (Pdeathsig).
func within(t *testing.T, ns string, f func() error) {
	t.Helper()
	made := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		made <- enter(ns, f)
	}()
	if err := <-made; err != nil {
		t.Fatal(err)
	}
}

func enter(ns string, f func() error) error {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer func() { _ = home.Close() }()
	there, err := os.Open("/var/run/netns/" + ns)
	if err != nil {
		return err
	}
	defer func() { _ = there.Close() }()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, back) // the thread stays locked, and ends
	}
	runtime.UnlockOSThread()
	return err
}

// relayInside listens in a namespace and relays to an address of this one.
func relayInside(t *testing.T, ns, listen, to string) {
	t.Helper()
	var ln net.Listener
	within(t, ns, func() (err error) {
		ln, err = net.Listen("tcp", listen)
		return err
	})
	serve(t, ln, func(conn net.Conn) { join(conn, to) })
}

// serve hands each connection to a goroutine of its own, and closes it when
// that is done with it. It ends with the test.
func serve(t *testing.T, ln net.Listener, handle func(net.Conn)) {
	t.Helper()
	var all sync.WaitGroup
	t.Cleanup(func() { _ = ln.Close(); all.Wait() })
	all.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer func() { _ = conn.Close() }()
				handle(conn)
			})
		}
	})
}

func join(conn net.Conn, to string) {
	up, err := net.DialTimeout("tcp", to, 10*time.Second)
	if err != nil {
		return
	}
	defer func() { _ = up.Close() }()
	ended := make(chan struct{}, 2)
	go func() { _, _ = io.Copy(up, conn); ended <- struct{}{} }()
	go func() { _, _ = io.Copy(conn, up); ended <- struct{}{} }()
	<-ended
}
