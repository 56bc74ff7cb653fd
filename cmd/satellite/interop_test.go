//go:build interop

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
	"syscall"
	"testing"
	"time"

	"usm-satellite/broker"
	"usm-satellite/deploy/lab"
	"usm-satellite/tunnel"
)

// interopTime is how long jobs flow through each peer: WireGuard makes new keys
// after 120 seconds, and takes the old ones no more after 180.
func interopTime(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("INTEROP_SECONDS")
	if text == "" {
		return 200 * time.Second
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("INTEROP_SECONDS=%q is not a number of seconds", text)
	}
	return time.Duration(n) * time.Second
}

// A job each second through three WireGuards that are not the satellite's own
// code: the Linux kernel's, wireguard-go on a TUN device, and the hub.
func TestInterop(t *testing.T) {
	guest, err := filepath.Abs("../../bin/interop")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("sh", "../../deploy/interop/guest.sh", guest).CombinedOutput(); err != nil {
		t.Fatalf("the guest could not be made: %v: %s", err, out)
	}
	t.Run("kernel", func(t *testing.T) {
		s := newSite(t, rabbit)
		key, psk := tunnel.NewPrivateKey(), tunnel.NewPresharedKey()
		hub, port := startKernel(t, guest, key.Public(), psk)
		t.Parallel()
		s.flow("USM_WG_PRIVATE_KEY", key.Reveal(), "USM_WG_ADDRESS", "10.99.0.2/32", "USM_WG_PEER_PUBLIC_KEY", hub.String(),
			"USM_WG_PRESHARED_KEY", psk.Reveal(), "USM_WG_ENDPOINT", loopback(port), "USM_WG_BROKER", "10.99.0.1:5672")
	})
	t.Run("wireguard-go", func(t *testing.T) {
		s := newSite(t, rabbit)
		ns, outer := namespace(t)
		server, client := tunnel.NewPrivateKey(), tunnel.NewPrivateKey()
		wireguardGo(t, ns, server, client.Public())
		relayInside(t, ns, "10.99.0.1:5672", loopback(rabbit.Port))
		t.Parallel()
		s.flow("USM_WG_PRIVATE_KEY", client.Reveal(), "USM_WG_ADDRESS", "10.99.0.2/32", "USM_WG_PEER_PUBLIC_KEY", server.Public().String(),
			"USM_WG_ENDPOINT", outer+":51820", "USM_WG_BROKER", "10.99.0.1:5672")
	})
	t.Run("hub", func(t *testing.T) {
		s := newSite(t, rabbit)
		_, _, settings := s.hub()
		t.Parallel()
		s.flow(settings...)
	})
}

// startKernel boots Linux in an emulated machine, whose WireGuard relays to
// the broker.
func startKernel(t *testing.T, dir string, peer tunnel.PublicKey, psk tunnel.PresharedKey) (public tunnel.PublicKey, port int) {
	t.Helper()
	key := tunnel.NewPrivateKey()
	port = lab.Port()
	console := filepath.Join(t.TempDir(), "console")
	cmd := exec.Command("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-machine", "q35",
		"-cpu", "qemu64,+ssse3,+rdrand", // without rdrand the kernel lacks randomness, and drops every handshake
		"-smp", "1", "-m", "192", "-nodefaults", "-no-reboot", "-display", "none", "-monitor", "none", "-serial", "file:"+console,
		"-kernel", filepath.Join(dir, "vmlinuz"), "-initrd", filepath.Join(dir, "initrd.gz"),
		"-append", fmt.Sprintf("console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on broker=%d wgkey=%s wgpeer=%s wgpsk=%s",
			rabbit.Port, key.Reveal(), peer, psk.Reveal()),
		"-netdev", fmt.Sprintf("user,id=n0,hostfwd=udp:127.0.0.1:%d-:51820", port), "-device", "virtio-net-pci,netdev=n0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out := &output{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := func() string {
		text, _ := os.ReadFile(console)
		return string(text)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		lines := strings.Split(strings.TrimSpace(said()), "\n")
		t.Logf("the guest's last word: %s", lines[len(lines)-1])
	})
	wait(t, "Linux to boot ("+out.String()+")", func() bool { return strings.Contains(said(), "WireGuard is up") })
	_, version, _ := strings.Cut(said(), "guest: ")
	t.Logf("the guest is %s", strings.SplitN(version, "\n", 2)[0])
	return key.Public(), port
}

// flow sends a job each second, and reports how long answers took. New keys
// must have been made meanwhile, and no job may have waited for long.
func (s *site) flow(settings ...string) {
	t := s.t
	s.satellite(settings...)
	core := s.core(broker.CoreOptions{})
	end := time.Now().Add(interopTime(t))
	var took []time.Duration
	handshakes := make(map[string]bool)
	for i := 0; time.Now().Before(end); i++ {
		id, began := fmt.Sprintf("i-%d", i), time.Now()
		r := s.ask(core, map[string][]byte{id: job(id, "tcp.connect", target(rabbit.Port))})
		took = append(took, time.Since(began))
		allOK(t, r, "wireguard+amqp")
		if i%5 == 0 {
			handshakes[s.handshake()] = true
		}
		time.Sleep(time.Until(began.Add(time.Second)))
	}
	slices.Sort(took)
	t.Logf("%d jobs in %s, %d handshakes seen; answers after %s (median), %s (99 %%), %s (slowest)", len(took), interopTime(t), len(handshakes),
		took[len(took)/2].Round(time.Millisecond/10), took[len(took)*99/100].Round(time.Millisecond/10), took[len(took)-1].Round(time.Millisecond/10))
	if interopTime(t) > 180*time.Second && len(handshakes) < 2 {
		t.Error("the keys were never renewed")
	}
	if slowest := took[len(took)-1]; slowest > 5*time.Second {
		t.Errorf("a job waited %s", slowest)
	}
}

// handshake is the time of the last one, as the satellite tells it.
func (s *site) handshake() string {
	s.t.Helper()
	out, _ := command(s.t, []string{"status", "--json"}, s.env())
	var now status
	if err := json.Unmarshal([]byte(out), &now); err != nil || now.Tunnel == nil || now.Tunnel.LastHandshake == nil {
		s.t.Errorf("status says %q (%v)", out, err)
		return ""
	}
	return now.Tunnel.LastHandshake.Format(time.RFC3339Nano)
}
