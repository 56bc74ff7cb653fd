package drivers

import (
	"net"
	"testing"
)

// Why a demand cannot be made.
const (
	noCredential  = "the action takes no credential"
	fixedSize     = "the answer has one size"
	finding       = "a refusal is what the action is to find"
	answersItself = "only the kernel sees what devices send, and answers for them"
	saysNothing   = "nothing is said on the connection: the kernel opens it"
)

func reachRows() []conformer {
	listener := startFunc{"a listener", func(t *testing.T) int {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		return ln.Addr().(*net.TCPAddr).Port
	}}
	return []conformer{
		{
			action: "icmp.ping", params: `{"count":2,"interval_ms":10}`,
			not: map[string]string{"huge answer": fixedSize, wrongLogin: noCredential},
			own: map[string]func(*testing.T, conformer){
				"refused": pingRefused, "silent": pingSilent, "slow": pingSlow, "garbled": pingGarbled, "dropped in the middle": pingDropped,
				cancelled: cancelledInSpace(silentHost),
			},
		},
		{
			action: "tcp.connect", params: `{}`, start: listener, network: "tcp",
			not: map[string]string{
				"slow": saysNothing, "garbled": saysNothing, "dropped in the middle": saysNothing, "huge answer": fixedSize, wrongLogin: noCredential,
			},
			own: map[string]func(*testing.T, conformer){"silent": connectSilent, cancelled: cancelledInSpace(silentHost)},
		},
		{
			action: "arp.lookup", params: `{}`,
			not: map[string]string{
				"refused": "ARP and NDP have no refusal", "slow": answersItself, "garbled": answersItself,
				"dropped in the middle": "one packet is the whole answer", "huge answer": fixedSize, wrongLogin: noCredential,
			},
			own: map[string]func(*testing.T, conformer){"silent": neighbourSilent, cancelled: cancelledInSpace(missingNeighbour)},
		},
		{
			action: "traceroute", params: `{"max_hops":3}`,
			not: map[string]string{
				"refused": finding, "slow": answersItself, "garbled": answersItself, "dropped in the middle": "a hop that is silent is a finding",
				"huge answer": "255 hops at most", wrongLogin: noCredential,
			},
			own: map[string]func(*testing.T, conformer){"silent": routeSilent, cancelled: cancelledInSpace(silentHost)},
		},
	}
}
