//go:build linux

package tunnel

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// foreign is wireguard-go on a real TUN device in a network namespace of its
// own: it stands for the operator's own WireGuard server.
type foreign struct {
	t     *testing.T
	ns    string // namespace, and name of the TUN device
	host  netip.Addr
	outer netip.Addr
	conf  string
	log   bytes.Buffer
}

// run runs a command and fails the test when it fails: a machine that cannot
// do this must not pass for one that did.
func run(t *testing.T, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s (this test needs root, /dev/net/tun, and the Debian packages iproute2, wireguard-go and wireguard-tools)", name, strings.Join(args, " "), err, out)
	}
}

func startForeign(t *testing.T, key PrivateKey, s site) *foreign {
	t.Helper()
	n := os.Getpid()
	f := &foreign{
		t: t, ns: fmt.Sprintf("satt%d", n),
		host:  netip.AddrFrom4([4]byte{10, byte(200 + n>>14&31), byte(n >> 6), byte(n<<2) | 1}),
		outer: netip.AddrFrom4([4]byte{10, byte(200 + n>>14&31), byte(n >> 6), byte(n<<2) | 2}),
	}
	run(t, "ip", "netns", "add", f.ns)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "delete", f.ns).Run() })
	near, far := f.ns+"h", f.ns+"p"
	run(t, "ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", f.ns)
	t.Cleanup(func() { _ = exec.Command("ip", "link", "delete", near).Run() })
	run(t, "ip", "address", "add", f.host.String()+"/30", "dev", near)
	run(t, "ip", "link", "set", near, "up")
	f.inside("ip", "address", "add", f.outer.String()+"/30", "dev", far)
	f.inside("ip", "link", "set", far, "up")
	f.inside("ip", "link", "set", "lo", "up")
	f.startDaemon()
	f.conf = filepath.Join(t.TempDir(), "wg.conf")
	text := fmt.Sprintf("[Interface]\nPrivateKey = %s\nListenPort = 51820\n[Peer]\nPublicKey = %s\nPresharedKey = %s\nAllowedIPs = %v, %v\n",
		key.Reveal(), s.key.Public(), s.psk.Reveal(), s.allows[0], s.allows[1])
	if err := os.WriteFile(f.conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f.inside("wg", "setconf", f.ns, f.conf)
	f.inside("ip", "address", "add", hubAddr4().String()+"/24", "dev", f.ns)
	f.inside("ip", "address", "add", hubAddr6().String()+"/64", "dev", f.ns, "nodad")
	f.inside("ip", "link", "set", f.ns, "up", "mtu", "1280")
	return f
}

func (f *foreign) inside(args ...string) {
	f.t.Helper()
	run(f.t, "ip", append([]string{"netns", "exec", f.ns}, args...)...)
}

// startDaemon runs wireguard-go in the foreground, so that its process is ours
// to end.
func (f *foreign) startDaemon() {
	f.t.Helper()
	cmd := exec.Command("ip", "netns", "exec", f.ns, "wireguard-go", "-f", f.ns)
	cmd.Stdout, cmd.Stderr = &f.log, &f.log
	if err := cmd.Start(); err != nil {
		f.t.Fatalf("wireguard-go: %v (Debian package wireguard-go)", err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = cmd.Wait() }()
	f.t.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
			<-done
		}
	})
	eventually(f.t, "wireguard-go has made its device", func() bool {
		select {
		case <-done:
			f.t.Fatalf("wireguard-go ended: %s", &f.log)
		default:
		}
		return exec.Command("ip", "netns", "exec", f.ns, "wg", "show", f.ns).Run() == nil
	})
}

// listen gives an echo server inside the namespace. A socket belongs to the
// namespace of the thread that made it.
func (f *foreign) listen(addr string) {
	f.t.Helper()
	made := make(chan error, 1)
	var l net.Listener
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		ns, err := os.Open("/var/run/netns/" + f.ns)
		if err == nil {
			defer ns.Close()
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			l, err = net.Listen("tcp", addr)
		}
		made <- err
	}()
	if err := <-made; err != nil {
		f.t.Fatalf("listen on %s in the namespace: %v", addr, err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				stop := context.AfterFunc(f.t.Context(), func() { c.Close() })
				defer stop()
				defer c.Close()
				_, _ = io.Copy(c, c)
			})
		}
	})
	f.t.Cleanup(func() { l.Close(); wg.Wait() })
}

// Not parallel: it changes the machine's network.
func TestForeignWireGuardServer(t *testing.T) {
	s, key := newSite(7), NewPrivateKey()
	f := startForeign(t, key, s)
	f.listen(inner(hubAddr4()))
	f.listen(inner(hubAddr6()))
	tun := startTunnel(t, s.config(key.Public(), netip.AddrPortFrom(f.outer, 51820).String()), quiet())
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := tun.Ready(ctx, inner(hubAddr4())); err != nil {
		t.Fatalf("Ready: %v\n%s", err, &f.log)
	}
	exchange(t, dial(t, tun, inner(hubAddr4())), 1, 1<<20)
	exchange(t, dial(t, tun, inner(hubAddr6())), 2, 1<<20)

	// The server restarts and has forgotten every session.
	c := dial(t, tun, inner(hubAddr4()))
	if err := say(c, "before"); err != nil {
		t.Fatal(err)
	}
	f.inside("wg", "setconf", f.ns, f.conf)
	start := time.Now()
	if err := say(c, "after"); err != nil {
		t.Errorf("a connection through a server that lost its sessions: %v", err)
	}
	t.Logf("answered after %v", time.Since(start))
}
