package discover

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"usm-satellite/deploy/lab"
	"usm-satellite/drivers/snmp"
	"usm-satellite/jobs"
)

// neighbours runs discover.lldp at an agent on loopback.
func neighbours(ctx context.Context, t *testing.T, port int, cred jobs.SNMPCredential, change ...func(*jobs.Job)) (lldpData, jobs.Output, *jobs.Fault) {
	t.Helper()
	network := &jobs.Network{Policy: &jobs.Policy{Targets: allowed("127.0.0.0/8")}}
	walk := snmp.Actions(snmp.Options{Network: network})["snmp.walk"].Driver
	registry := Actions(Options{Network: network, Walk: walk})
	job := &jobs.Job{
		ID: "t", Action: "discover.lldp", Timeout: time.Minute, Target: jobs.Target{Address: "127.0.0.1", Port: port},
		Credentials: []jobs.Credential{{SNMP: &cred}},
	}
	for _, c := range change {
		c(job)
	}
	action, fault := registry.Judge(job)
	if fault != nil {
		t.Fatal(fault)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, job.Timeout, jobs.ErrTimeout)
	defer cancel()
	out, err := action.Driver.Run(ctx, job)
	if err != nil {
		fault = jobs.FaultOf(ctx, err)
	}
	data, _ := out.Data.(lldpData)
	return data, out, fault
}

func community(name string) jobs.SNMPCredential {
	return jobs.SNMPCredential{Version: "2c", Community: jobs.NewSecret(name)}
}

func TestLLDPOfARealAgent(t *testing.T) {
	t.Parallel()
	device, err := lab.StartLLDP(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := device.Close(); err != nil {
			t.Error(err)
		}
	})
	v1 := community(lab.Community)
	v1.Version = "1"
	for name, cred := range map[string]jobs.SNMPCredential{"v1": v1, "v2c": community(lab.Community), "v3": {
		Version: "3", Username: "u_s256", AuthProtocol: "SHA-256", AuthPassword: jobs.NewSecret(lab.AuthPassword),
		PrivProtocol: "AES", PrivPassword: jobs.NewSecret(lab.PrivPassword),
	}} {
		t.Run(name, func(t *testing.T) {
			data, out, fault := neighbours(t.Context(), t, device.Port, cred)
			if fault != nil || out.Partial || out.Truncated || len(out.Warnings) != 0 {
				t.Fatalf("got %v, %+v", fault, out)
			}
			checkLab(t, data)
		})
	}
}

func checkLab(t *testing.T, data lldpData) {
	t.Helper()
	if !data.Supported || data.Local.ChassisIDSubtype != macAddress || len(data.Local.ChassisID) != 17 || data.Local.SysDescr != lab.LLDPDescr || data.Local.SysName == "" {
		t.Errorf("local: got %+v", data.Local)
	}
	if len(data.Ports) != 1 || data.Ports[0].name() != lab.LLDPPort {
		t.Errorf("ports: got %+v", data.Ports)
	}
	if len(data.Neighbours) != 1 {
		t.Fatalf("got %d neighbours", len(data.Neighbours))
	}
	n := data.Neighbours[0]
	if n.LocalPort != lab.LLDPPort || n.ChassisIDSubtype != macAddress || n.ChassisID != lab.LLDPPeerMAC || n.SysDescr != lab.LLDPNeighbour ||
		n.PortIDSubtype != macAddress || n.PortID != lab.LLDPPeerMAC || n.PortDescr != lab.LLDPPeerPort || n.SysName == "" ||
		!slices.Contains(n.Capabilities, "bridge") || !slices.Contains(n.Capabilities, "router") {
		t.Errorf("got %+v", n)
	}
	for _, want := range []address{{Family: "ipv4", Address: lab.LLDPPeerIPv4}, {Family: "ipv6", Address: lab.LLDPPeerIPv6}} {
		if !slices.ContainsFunc(n.Addresses, func(a address) bool {
			return a.Family == want.Family && a.Address == want.Address && a.IfIndex > 0
		}) {
			t.Errorf("%s is not among %+v", want.Address, n.Addresses)
		}
	}
}

// recorded serves devices by snmpsim, each under its own community.
func recorded(t *testing.T, devices map[string][]string) int {
	t.Helper()
	dir := t.TempDir()
	const up = "1.3.6.1.2.1.1.3.0|67|123456"
	devices["plain"] = nil
	for name, lines := range devices {
		all := slices.Concat(lines, []string{up})
		slices.SortFunc(all, func(a, b string) int {
			x, _, _ := strings.Cut(a, "|")
			y, _, _ := strings.Cut(b, "|")
			return slices.Compare(numbers(x), numbers(y))
		})
		if err := os.WriteFile(filepath.Join(dir, name+".snmprec"), []byte(strings.Join(all, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sim, err := lab.StartSNMPSim(t.Context(), t.TempDir(), dir, "plain")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sim.Close() })
	return sim.Port
}

func numbers(oid string) []uint32 {
	all, _ := under("."+oid, "")
	return all
}

// flock is a device with n neighbours.
func flock(n int) []string {
	lines := []string{lldpLocal + ".1.0|2|7", lldpLocal + ".2.0|4|core"}
	for i := 1; i <= n; i++ {
		at := fmt.Sprintf(".0.%d.1", i)
		lines = append(lines,
			fmt.Sprintf("%s.2.%d|2|5", lldpPorts, i), fmt.Sprintf("%s.3.%d|4|ge-0/0/%d", lldpPorts, i, i),
			lldpRemote+".1.4"+at+"|2|4", fmt.Sprintf("%s.1.5%s|4x|0200000%05x", lldpRemote, at, i),
			lldpRemote+".1.6"+at+"|2|5", lldpRemote+".1.7"+at+"|4|eth0",
			lldpRemote+".1.10"+at+"|4|"+strings.Repeat("an access switch ", 10),
		)
	}
	return lines
}

// oddDevice has every subtype of an id, and what agents are known to get wrong.
func oddDevice() []string {
	rem := func(column, port int, value string) string {
		return fmt.Sprintf("%s.1.%d.77.%d.1|%s", lldpRemote, column, port, value)
	}
	return []string{
		lldpLocal + ".1.0|2|4", lldpLocal + ".2.0|4x|0200000000aa", lldpLocal + ".3.0|4x|737731" + "0000", lldpLocal + ".5.0|4x|28", lldpLocal + ".6.0|4x|08",
		lldpPorts + ".2.1|2|7", lldpPorts + ".3.1|4|512", lldpPorts + ".4.1|4|xe-0/0/1",
		lldpPorts + ".2.2|2|5", lldpPorts + ".3.2|4|Gi0/2", lldpPorts + ".4.2|4|to the north",
		rem(4, 1, "2|5"), rem(5, 1, "4x|01c0000207"), rem(6, 1, "2|4"), rem(7, 1, "4x|0220010db8000000000000000000000001"), rem(11, 1, "4x|ff"), rem(12, 1, "4x|"),
		rem(4, 2, "2|5"), rem(5, 2, "4x|c0000208"), rem(6, 2, "2|6"), rem(7, 2, "4x|0001ff"), rem(9, 2, "4x|4d6f73636f77c3a9"),
		rem(4, 3, "2|4"), rem(5, 3, "4|02:00:00:00:00:03"), rem(6, 3, "2|9"), rem(7, 3, "4|x"),
		lldpAddresses + ".1.3.77.1.1.1.4.192.0.2.7|2|2", lldpAddresses + ".1.4.77.1.1.1.4.192.0.2.7|2|12",
		lldpAddresses + ".1.3.77.1.1.1.192.0.2.9|2|1",                 // no length
		lldpAddresses + ".1.3.77.1.1.6.6.2.0.0.0.0.1|2|3",             // a MAC address
		lldpAddresses + ".1.3.77.1.1.16.3.97.98.99|2|1",               // a name
		lldpAddresses + ".1.3.77.1.1.1.4.192.0.2.999|2|2",             // no byte
		lldpAddresses + ".1.3.77.9.1.1.4.192.0.2.7|2|2",               // of nobody
		lldpAddresses + ".1.3.77.2|2|2", lldpRemote + ".1.4.77.5|2|4", // no index
	}
}

// newerDevice has the LLDP-V2-MIB: what oddDevice would say there of one
// neighbour, and a second one on the same port by another destination address.
// With local data of the LLDP-MIB it still tells of no neighbours there.
func newerDevice() []string {
	const local, remote, addresses = lldpV2Objects + ".3", lldpV2Objects + ".4.1", lldpV2Objects + ".4.2"
	lines := []string{
		local + ".1.0|2|4", local + ".2.0|4x|0200000000aa", local + ".3.0|4|fw1", local + ".5.0|4x|28", local + ".6.0|4x|08",
		local + ".7.1.2.10009|2|5", local + ".7.1.3.10009|4|xe9", local + ".7.1.4.10009|4|to the core",
		addresses + ".1.3.0.10009.1.6.1.4.192.0.2.7|2|2", addresses + ".1.4.0.10009.1.6.1.4.192.0.2.7|66|12",
	}
	for i, destination := range []int{1, 3} {
		row := func(column int, value string) string {
			return fmt.Sprintf("%s.1.%d.0.10009.%d.6|%s", remote, column, destination, value)
		}
		lines = append(lines, row(5, "2|4"), row(6, fmt.Sprintf("4x|02000000000%d", i)), row(7, "2|5"), row(8, fmt.Sprintf("4|eth%d", i)),
			row(9, "4|port"), row(10, fmt.Sprintf("4|peer%d", i)), row(11, "4|switch"), row(12, "4x|28"), row(13, "4x|20"), row(14, "2|2"))
	}
	return lines
}

func checkNewer(t *testing.T, port int, name string) {
	data, out, fault := neighbours(t.Context(), t, port, community(name))
	if fault != nil || !data.Supported || len(data.Neighbours) != 2 || len(data.Ports) != 1 || len(out.Warnings) != 0 {
		t.Fatalf("got %v, %+v, %q", fault, data, out.Warnings)
	}
	if data.Local.SysName != "fw1" || data.Local.ChassisID != "02:00:00:00:00:aa" || fmt.Sprint(data.Local.Enabled) != "[router]" {
		t.Errorf("local: got %+v", data.Local)
	}
	for i, n := range data.Neighbours {
		want := fmt.Sprintf("10009 xe9 mac_address 02:00:00:00:00:0%d interface_name eth%d port peer%d switch [bridge router] [bridge]", i, i, i)
		got := fmt.Sprint(n.LocalPortNum, " ", strings.Join([]string{n.LocalPort, n.ChassisIDSubtype, n.ChassisID, n.PortIDSubtype, n.PortID, n.PortDescr, n.SysName, n.SysDescr}, " "), " ", n.Capabilities, " ", n.Enabled)
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if a := data.Neighbours[0].Addresses; len(a) != 1 || a[0] != (address{"ipv4", "192.0.2.7", 12}) {
		t.Errorf("addresses: got %+v", a)
	}
}

func TestLLDPOfRecordedDevices(t *testing.T) {
	t.Parallel()
	port := recorded(t, map[string][]string{
		"odd": oddDevice(), "flock": flock(600), "few": flock(60),
		"newer": newerDevice(), "both": append(newerDevice(), lldpLocal+".1.0|2|7", lldpLocal+".2.0|4|old"),
	})
	for _, name := range []string{"newer", "both"} {
		t.Run(name, func(t *testing.T) { checkNewer(t, port, name) })
	}
	t.Run("without LLDP", func(t *testing.T) {
		for _, version := range []string{"1", "2c"} {
			cred := community("plain")
			cred.Version = version
			data, out, fault := neighbours(t.Context(), t, port, cred)
			if fault != nil || data.Supported || data.Local != nil || len(data.Neighbours) != 0 || len(out.Warnings) != 1 || !strings.Contains(out.Warnings[0], "LLDP-MIB") {
				t.Errorf("version %s: got %v, %+v", version, fault, out)
			}
		}
	})
	t.Run("odd", func(t *testing.T) { checkOdd(t, port) })
	t.Run("many", func(t *testing.T) {
		data, out, fault := neighbours(t.Context(), t, port, community("flock"))
		if fault != nil || out.Truncated || out.Partial || len(data.Neighbours) != 600 || len(data.Ports) != 600 {
			t.Fatalf("got %v, %d neighbours, %d ports", fault, len(data.Neighbours), len(data.Ports))
		}
		if n := data.Neighbours[599]; n.LocalPort != "ge-0/0/600" || n.ChassisID != "02:00:00:00:02:58" {
			t.Errorf("got %+v", n)
		}
	})
	for name, limits := range map[string]jobs.Limits{"rows": {MaxRows: 10}, "bytes": {MaxResultBytes: 16 << 10}} {
		t.Run("limited "+name, func(t *testing.T) {
			data, out, fault := neighbours(t.Context(), t, port, community("flock"), func(j *jobs.Job) { j.Limits = limits })
			text, _ := json.Marshal(out.Data)
			if fault != nil || !out.Truncated || !out.Partial || len(data.Neighbours) == 0 || limits.MaxRows > 0 && len(data.Neighbours) != limits.MaxRows ||
				limits.MaxResultBytes > 0 && len(text) > limits.MaxResultBytes {
				t.Errorf("got %v, %d bytes, %d neighbours, truncated %v", fault, len(text), len(data.Neighbours), out.Truncated)
			}
		})
	}
	t.Run("silent in the middle", func(t *testing.T) { checkSilence(t, port) })
}

func checkOdd(t *testing.T, port int) {
	data, out, fault := neighbours(t.Context(), t, port, community("odd"))
	if fault != nil || out.Partial || len(data.Neighbours) != 3 {
		t.Fatalf("got %v, %+v", fault, data)
	}
	if l := data.Local; l.SysName != "sw1" || fmt.Sprint(l.Capabilities) != "[bridge router]" || fmt.Sprint(l.Enabled) != "[router]" {
		t.Errorf("got %+v", l)
	}
	for i, want := range []string{
		"xe-0/0/1 network_address 192.0.2.7 network_address 2001:db8::1",
		"Gi0/2 network_address 192.0.2.8 agent_circuit_id 00:01:ff",
		" mac_address 02:00:00:00:00:03 unknown x",
	} {
		n := data.Neighbours[i]
		if got := strings.Join([]string{n.LocalPort, n.ChassisIDSubtype, n.ChassisID, n.PortIDSubtype, n.PortID}, " "); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	n := data.Neighbours[0]
	want := []address{{"ipv4", "192.0.2.7", 12}, {"ipv4", "192.0.2.9", 0}, {"mac", "02:00:00:00:00:01", 0}, {"family 16", "61:62:63", 0}}
	for _, a := range want {
		if !slices.Contains(n.Addresses, a) {
			t.Errorf("%+v is not among %+v", a, n.Addresses)
		}
	}
	if len(n.Addresses) != len(want) || len(n.Capabilities) != 8 || len(n.Enabled) != 0 || data.Neighbours[1].SysName != "Moscow\u00e9" {
		t.Errorf("got %+v", n)
	}
	if len(out.Warnings) != 1 || !strings.HasPrefix(out.Warnings[0], "3 objects") {
		t.Errorf("warnings: %q", out.Warnings)
	}
}

// A device that falls silent gives what it has told, with the reason.
func checkSilence(t *testing.T, port int) {
	front, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		forward(front, port, 25)
	}()
	relay := front.LocalAddr().(*net.UDPAddr).Port
	data, out, fault := neighbours(t.Context(), t, relay, community("few"), func(j *jobs.Job) {
		j.Timeout, j.Limits.MaxRepetitions = 6*time.Second, 10
	})
	front.Close()
	<-done
	if fault == nil || fault.Code != jobs.CodeTimeout || !out.Partial || len(data.Neighbours) == 0 || data.Local.ChassisID != "core" {
		t.Errorf("got %v, partial %v, %d neighbours", fault, out.Partial, len(data.Neighbours))
	}
}

// forward relays so many requests to an agent, and swallows the rest.
func forward(front net.PacketConn, port, most int) {
	back, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return
	}
	defer back.Close()
	packet := make([]byte, 65535)
	for count := 0; ; count++ {
		n, from, err := front.ReadFrom(packet)
		if err != nil {
			return
		}
		if count >= most {
			continue
		}
		_, _ = back.Write(packet[:n])
		_ = back.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, err = back.Read(packet); err == nil {
			_, _ = front.WriteTo(packet[:n], from)
		}
	}
}

// Whatever an agent answers must come out as JSON within the limits.
func FuzzLLDP(f *testing.F) {
	for _, line := range slices.Concat(oddDevice(), flock(1)) {
		oid, rest, _ := strings.Cut(line, "|")
		_, value, _ := strings.Cut(rest, "|")
		f.Add(oid, []byte(value), 4)
		f.Add(oid, []byte(value), 5)
	}
	f.Fuzz(func(t *testing.T, oid string, value []byte, number int) {
		text := fmt.Sprintf("%x", value)
		read := newLLDPReader()
		read.newer = number%2 != 0
		for _, from := range []string{"", lldpLocal + ".", lldpPorts + ".", lldpRemote + ".1.", lldpAddresses + ".1."} {
			read.take(snmp.Varbind{OID: lldpRemote + ".1.4.1.1.1", Type: "Integer", Value: number})
			read.take(snmp.Varbind{OID: from + oid, Type: "OctetString", Hex: &text})
			read.take(snmp.Varbind{OID: from + oid, Type: "Integer", Value: number})
			read.take(snmp.Varbind{OID: from + oid, Type: "Null"})
		}
		identity(chassisSubtype(number), value)
		identity(portSubtype(number), value)
		data, _ := read.data(jobs.Limits{MaxResultBytes: 64 << 10})
		encoded, err := json.Marshal(data)
		if err != nil || len(encoded) > 64<<10 {
			t.Errorf("%d bytes: %v", len(encoded), err)
		}
		for _, n := range data.Neighbours {
			for _, a := range n.Addresses {
				if a.Family == "" || a.Address == "" || a.IfIndex < 0 {
					t.Errorf("got %+v", a)
				}
			}
		}
	})
}
