package drivers

import (
	"net"
	"testing"
)

func reachRows() []conformer {
	listener := startFunc{"listener", func(t *testing.T) int {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		return ln.Addr().(*net.TCPAddr).Port
	}}
	const (
		kernel  = "the kernel answers the ping itself: loopback is never silent, slow or wrong"
		connect = "nothing is said on the connection: the kernel opens it"
		fixed   = "the answer has one size"
	)
	return []conformer{
		{
			action: "icmp.ping", params: `{"count":2,"interval_ms":10}`, huge: "",
			not: map[string]string{
				"refused": "ICMP has no ports", "silent": kernel, "slow": kernel, "garbled": kernel, "dropped in the middle": kernel,
				"cancelled": "tested by TestPingIsCancelled", "huge answer": fixed,
			},
		},
		{
			action: "tcp.connect", params: `{}`, start: listener, network: "tcp",
			not: map[string]string{
				"silent": connect, "slow": connect, "garbled": connect, "dropped in the middle": connect,
				"cancelled": connect, "huge answer": fixed,
			},
		},
	}
}
