package jobs

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
)

// tricks are ways to write an address that a policy must not let through.
func tricks() []string {
	return []string{
		"127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "017700000001", "127.0.0.01", "127.00.00.01",
		"127.0.0.1.", "127.255.255.254", "0", "0.0.0.0", "00.00.00.00", "0x0", "0.0.0.1", "localhost", "LOCALHOST", "localhost.",
		"::1", "[::1]", "::", "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1", "::ffff:7f00:1", "::FFFF:127.0.0.1", "0:0:0:0:0:ffff:7f00:0001", "::127.0.0.1", "64:ff9b::127.0.0.1",
		"64:ff9b::7f00:1", "2002:7f00:1::", "2002:7f00:0001::1", "fe80::1", "fe80::1%lo", "fe80::1%eth0", "::1%lo", "169.254.169.254", "0xa9fea9fe", "2852039166",
		"0251.0376.0251.0376", "::ffff:169.254.169.254", "64:ff9b::169.254.169.254", "2002:a9fe:a9fe::", "169.254.0.1", "224.0.0.1", "239.255.255.250", "ff02::1", "ff05::2", "255.255.255.255",
		"240.0.0.1", "::ffff:224.0.0.1", "::ffff:0.0.0.0", "127.0.0.1:80", "127.0.0.1/8", "user@127.0.0.1", "127.0.0.1\\", "127.0.0.1%20", " 127.0.0.1", "127.0.0.1 ",
		"１２７.0.0.1", "127。0。0。1", "10.99.0.1", "::ffff:10.99.0.1", "0x0a630001", "10.99.1", "174260225", "64:ff9b::10.99.0.1", "2002:0a63:1::", "::ffff:a63:1",
	}
}

// Each trick meets a closed door; none gets as far as a packet.
func TestAddressTricks(t *testing.T) {
	t.Parallel()
	policy := &Policy{Deny: []netip.Prefix{netip.MustParsePrefix("10.99.0.0/16")}} // the tunnel's own network
	network := &Network{Policy: policy}
	sniffer, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sniffer.Close() }()
	reached := make(chan struct{}, 100)
	go func() {
		for {
			conn, err := sniffer.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
			reached <- struct{}{}
		}
	}()
	_, port, _ := net.SplitHostPort(sniffer.Addr().String())
	for _, trick := range tricks() {
		conn, err := network.DialContext(t.Context(), "tcp", net.JoinHostPort(trick, port))
		var fault *Fault
		if err == nil {
			_ = conn.Close()
			t.Errorf("%q got through", trick)
		} else if !errors.As(err, &fault) {
			t.Errorf("%q: %v is no fault", trick, err)
		}
	}
	if len(reached) > 0 {
		t.Errorf("%d connections were made", len(reached))
	}
	if n := len(tricks()); n < 60 {
		t.Errorf("%d tricks are too few", n)
	}
}

// A name that resolves to something else when it is dialled (DNS rebinding)
// meets the policy in the socket's control hook.
func TestRebinding(t *testing.T) {
	t.Parallel()
	network := &Network{Policy: &Policy{}}
	for _, address := range []string{"127.0.0.1:22", "[::1]:22", "169.254.169.254:80", "nonsense"} {
		if err := network.Control("tcp", address, nil); err == nil {
			t.Errorf("%s may be dialled", address)
		}
	}
	if err := network.Control("tcp", "192.0.2.1:22", nil); err != nil {
		t.Error(err)
	}
}

func TestPolicyNamesItsRule(t *testing.T) {
	t.Parallel()
	p := &Policy{
		Targets: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Ports: []PortRange{{22, 23}},
		Actions: []string{"snmp.*", "icmp.ping"}, NoWrites: true,
	}
	for _, tt := range []struct {
		err  error
		want string
	}{
		{p.Check(netip.MustParseAddrPort("192.0.2.1:22")), ""},
		{p.Check(netip.MustParseAddrPort("192.0.2.1:80")), "USM_ALLOW_PORTS"},
		{p.Check(netip.MustParseAddrPort("198.51.100.1:22")), "USM_ALLOW_TARGETS"},
		{asError(p.CheckAction("snmp.walk", Read)), ""},
		{asError(p.CheckAction("snmp.set", Write)), "USM_ALLOW_WRITES"},
		{asError(p.CheckAction("cli.run", Read)), "USM_ALLOW_ACTIONS"},
	} {
		if tt.want == "" && tt.err != nil || tt.want != "" && (tt.err == nil || !strings.Contains(tt.err.Error(), tt.want)) {
			t.Errorf("got %v, want %q", tt.err, tt.want)
		}
	}
}

func asError(f *Fault) error {
	if f == nil {
		return nil
	}
	return f
}

func TestDialFaults(t *testing.T) {
	t.Parallel()
	network := &Network{Policy: &Policy{Targets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := network.DialContext(ctx, "tcp", "127.0.0.1:1")
	var fault *Fault
	if !errors.As(err, &fault) || fault.Code != CodeTimeout {
		t.Errorf("after the end of the context: %v", err)
	}
	_, err = network.DialContext(t.Context(), "tcp", "127.0.0.1:1")
	if !errors.As(err, &fault) || fault.Code != CodeRefused {
		t.Errorf("a closed port: %v", err)
	}
}
