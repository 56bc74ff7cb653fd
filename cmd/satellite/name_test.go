package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"usm-satellite/broker"
)

const hubName = "hub.lab.invalid"

// remote is a site in a namespace of its own, with a name server (dnsmasq), a
// firewall (nft) and a wire to the hub, which has two addresses of each family.
type remote struct {
	*site

	ns       string
	hosts    string // what the name server reads
	names    *exec.Cmd
	port     int       // UDP, of the hub
	v4, v6   [2]string // addresses of the hub
	settings []string
}

func newRemote(t *testing.T) *remote {
	t.Helper()
	s := newSite(t, rabbit)
	_, port, settings := s.hub()
	ns, host, _ := namespaceOf(t, "n", os.Getpid())
	r := &remote{
		site: s, ns: ns, hosts: filepath.Join(t.TempDir(), "hosts"), port: port,
		v4: [2]string{host, "198.18.77.2"}, v6: [2]string{"fd77:77::1", "fd77:77::2"},
	}
	sh(t, "ip", "address", "add", r.v4[1]+"/32", "dev", ns+"h")
	sh(t, "ip", "-n", ns, "route", "add", "default", "via", host)
	for _, a := range r.v6 {
		sh(t, "ip", "address", "add", a+"/64", "dev", ns+"h", "nodad")
	}
	sh(t, "ip", "-n", ns, "address", "add", "fd77:77::7/64", "dev", "eth0", "nodad")
	r.firewall()
	r.nameServer()
	wait(t, "the addresses to be usable", func() bool {
		out, err := exec.Command("ip", "-6", "-n", ns, "address", "show", "dev", "eth0", "tentative").Output()
		return err == nil && len(out) == 0
	})

	// AMQPS at the same address as here, for the certificate is made for that.
	relayInside(t, ns, loopback(rabbit.TLSPort), loopback(rabbit.TLSPort))
	r.settings = append(settings, "USM_WG_ENDPOINT", net.JoinHostPort(hubName, strconv.Itoa(port)))
	return r
}

// start starts a satellite at the site, and waits until it takes jobs.
func (r *remote) start(more ...string) *process {
	r.t.Helper()
	p := r.inside(r.ns, r.env(append(r.settings, more...)...))
	p.says(r.t, "taking jobs")
	return p
}

func (r *remote) nft(line string) {
	r.t.Helper()
	nft(r.t, r.ns, line)
}

// firewall stands at the wire, where who sends is not told.
func (r *remote) firewall() {
	r.t.Helper()
	r.nft("add table netdev site")
	r.nft("add chain netdev site out { type filter hook egress device eth0 priority 0; }")
	r.nft("add chain netdev site in { type filter hook ingress device eth0 priority 0; }")
}

// block drops, silently and both ways, what goes to these addresses by UDP.
func (r *remote) block(addresses ...string) {
	r.t.Helper()
	for _, a := range addresses {
		family := "ip"
		if strings.Contains(a, ":") {
			family = "ip6"
		}
		r.nft(fmt.Sprintf("add rule netdev site out %s daddr %s udp dport %d drop", family, a, r.port))
		r.nft(fmt.Sprintf("add rule netdev site in %s saddr %s udp sport %d drop", family, a, r.port))
	}
}

func (r *remote) unblock() {
	r.t.Helper()
	r.nft("flush table netdev site")
}

func (r *remote) nameServer() {
	t := r.t
	t.Helper()
	// What is in this folder, `ip netns exec` puts in the place of /etc.
	etc := filepath.Join("/etc/netns", r.ns)
	r.must(os.MkdirAll(etc, 0o755))
	t.Cleanup(func() { _ = os.RemoveAll(etc) })
	r.must(os.WriteFile(filepath.Join(etc, "resolv.conf"), []byte("nameserver 127.0.0.1\n"), 0o600))
	r.must(os.WriteFile(r.hosts, nil, 0o600))
	out := &output{}
	r.names = exec.Command("ip", "netns", "exec", r.ns, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts",
		"--addn-hosts="+r.hosts, "--listen-address=127.0.0.1", "--bind-interfaces", "--user=root", "--pid-file=")
	r.names.Stdout, r.names.Stderr = out, out
	r.names.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := r.names.Start(); err != nil {
		t.Fatalf("dnsmasq (Debian package dnsmasq-base): %v", err)
	}
	t.Cleanup(func() {
		_ = r.names.Process.Kill()
		_ = r.names.Wait()
		if t.Failed() {
			t.Logf("output of dnsmasq: %s", out)
		}
	})
	wait(t, "dnsmasq to answer", func() bool { _, err := r.lookup(); return err == nil })
}

// lookup asks the site's name server for the hub's addresses.
func (r *remote) lookup() (addresses []string, err error) {
	r.t.Helper()
	for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
		var answer *dns.Msg
		within(r.t, r.ns, func() error {
			answer, err = dns.Exchange(new(dns.Msg).SetQuestion(dns.Fqdn(hubName), kind), "127.0.0.1:53")
			return nil
		})
		if err != nil {
			return nil, err
		}
		for _, rr := range answer.Answer {
			switch rr := rr.(type) {
			case *dns.A:
				addresses = append(addresses, rr.A.String())
			case *dns.AAAA:
				addresses = append(addresses, rr.AAAA.String())
			}
		}
	}
	slices.Sort(addresses)
	return addresses, err
}

// name gives the hub's name these addresses.
func (r *remote) name(addresses ...string) {
	r.t.Helper()
	var text strings.Builder
	for _, a := range addresses {
		_, _ = fmt.Fprintf(&text, "%s %s\n", a, hubName)
	}
	r.must(os.WriteFile(r.hosts, []byte(text.String()), 0o600))
	r.must(r.names.Process.Signal(syscall.SIGHUP))
	want := slices.Sorted(slices.Values(addresses))
	wait(r.t, "the name server to know "+strings.Join(want, " "), func() bool {
		got, err := r.lookup()
		return err == nil && slices.Equal(got, want)
	})
}

// The hub's name has addresses of both families, as most names have. Whichever
// of them works is found; when it ceases to work, the tunnel goes on by the
// other one. On a machine that is not busy the connection to the broker lives on.
func TestNameWithBothFamilies(t *testing.T) {
	r := newRemote(t)
	r.name(r.v4[0], r.v6[0])
	core := r.core(broker.CoreOptions{})
	for i, deaf := range []string{r.v4[0], r.v6[0]} {
		other := []string{r.v6[0], r.v4[0]}[i]
		r.block(deaf)
		p := r.start("USM_STATE_DIR", t.TempDir())
		r.answered(core, fmt.Sprintf("beside-%d", i), "wireguard+amqp")
		r.unblock()
		r.block(other)
		r.answered(core, fmt.Sprintf("after-%d", i), "wireguard+amqp")
		n := strings.Count(p.out.String(), "taking jobs")
		t.Logf("%d connections to the broker", n)
		if n > 3 {
			t.Error("connections were given up that had just been made")
		}
		p.stop(t)
		r.unblock()
	}
}

// The wire of the site carries less than the tunnel's packets take: 1,400 bytes,
// as with one more tunnel outside. Much goes through it all the same, and
// nothing is refused by the machine itself.
func TestNarrowWire(t *testing.T) {
	r := newRemote(t)
	for _, mtu := range []string{"1400", "1300"} {
		sh(t, "ip", "link", "set", r.ns+"h", "mtu", mtu)
		sh(t, "ip", "-n", r.ns, "link", "set", "eth0", "mtu", mtu)
		r.name(r.v4[0])
		body := strings.Repeat("0123456789abcdef", 64<<10) // 1 MiB
		web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }))
		t.Cleanup(web.Close)
		device := web.Listener.Addr().String()
		relayInside(t, r.ns, device, device)
		_, port, _ := net.SplitHostPort(device)

		p := r.start("USM_STATE_DIR", t.TempDir())
		core := r.core(broker.CoreOptions{})
		for i := range 5 {
			id, began := fmt.Sprintf("wide-%s-%d", mtu, i), time.Now()
			answers := r.ask(core, map[string][]byte{id: job(id, "http.request", `"target":{"address":"127.0.0.1","port":`+port+`},"params":{"scheme":"http","path":"/","max_bytes":2000000},"limits":{"max_result_bytes":4000000}`)})
			allOK(t, answers, "wireguard+amqp")
			if got := len(answers[id].Data); got < len(body) {
				t.Errorf("%s: %d bytes", id, got)
			}
			t.Logf("%s: answered after %s", id, time.Since(began).Round(time.Millisecond))
		}
		if strings.Contains(p.out.String(), "Failed to send") {
			t.Errorf("this machine refused packets: %s", p.out)
		}
		p.stop(t)
		_ = core.Close()
	}
}
