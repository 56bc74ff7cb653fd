package drivers

import (
	"testing"

	"usm-satellite/deploy/lab"
)

func netconfRows() []conformer {
	server := startFunc{"netconfd", func(t *testing.T) int {
		n, err := lab.StartNETCONF(t.Context(), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Close() })
		return n.Port
	}}
	return []conformer{{
		action: "netconf.rpc", params: `{"rpc":["<get-config><source><running/></source></get-config>"]}`,
		huge:  `{"rpc":["<get/>","<get/>","<get/>"]}`,
		start: server, network: "tcp", login: login(lab.ConsolePassword), wrong: login(canary), dropFrom: 2000,
	}}
}
