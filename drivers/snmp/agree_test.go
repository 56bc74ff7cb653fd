package snmp

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"usm-satellite/deploy/lab"
	"usm-satellite/jobs"
)

// netSNMP walks with the tool of net-snmp, and returns what it says by OID, in
// the words of the contract: "type value", with the bytes of strings in hex.
func netSNMP(t *testing.T, port int, community, root string) map[string]string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "snmpbulkwalk", "-v2c", "-c", community, "-t", "20", "-r", "3", "-m", "", "-On", "-Oe", "-Ot", "-Ox", "127.0.0.1:"+strconv.Itoa(port), root)
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("snmpbulkwalk (apt-get install snmp): %v: %s", err, text)
	}
	values := make(map[string]string)
	oid := ""
	line := regexp.MustCompile(`^\.([0-9.]+) = (.*)$`)
	for l := range strings.Lines(string(text)) {
		if strings.Contains(l, "No more variables left") {
			continue // said of the last object again
		}
		if m := line.FindStringSubmatch(strings.TrimRight(l, "\n")); m != nil {
			oid = m[1]
			values[oid] = m[2]
		} else {
			values[oid] += " " + strings.TrimSpace(l)
		}
	}
	for oid, said := range values {
		values[oid] = translate(said)
	}
	return values
}

func translate(said string) string {
	kind, value, ok := strings.Cut(said, ": ")
	if !ok {
		if said == `""` {
			return "OctetString "
		}
		return "TimeTicks " + said
	}
	names := map[string]string{"INTEGER": "Integer", "IpAddress": "IPAddress", "OID": "ObjectIdentifier"}
	switch kind {
	case "Hex-STRING":
		return "OctetString " + strings.ToLower(strings.ReplaceAll(value, " ", ""))
	case "STRING":
		return "OctetString " + hex.EncodeToString([]byte(strings.Trim(value, `"`)))
	case "Opaque": // "Float: 31.250000"
		kind, value, _ = strings.Cut(value, ": ")
		n, _ := strconv.ParseFloat(value, 64)
		return "Opaque" + kind + " " + strconv.FormatFloat(n, 'f', 6, 64)
	case "OID":
		value = strings.TrimPrefix(value, ".")
	}
	if name, ok := names[kind]; ok {
		kind = name
	}
	return kind + " " + value
}

// words puts ours in the same form.
func words(v Varbind) string {
	if n, ok := v.Value.(float64); ok && strings.HasPrefix(v.Type, "Opaque") { // net-snmp calls doubles floats too, and says six digits
		return "OpaqueFloat " + strconv.FormatFloat(n, 'f', 6, 64)
	}
	if v.Hex != nil {
		return v.Type + " " + *v.Hex
	}
	if n, ok := v.Value.(float64); ok { // as JSON is read here
		return v.Type + " " + strconv.FormatInt(int64(n), 10)
	}
	return fmt.Sprintf("%s %v", v.Type, v.Value)
}

func families(t *testing.T) (s *site, names []string) {
	t.Helper()
	sim, err := lab.StartSNMPSim(t.Context(), t.TempDir(), "testdata", "ups")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sim.Close() })
	return newSite(t, sim.Port), []string{"switch48", "olt", "ups", "counters", "strings", "router", "radio", "mikrotik", "lldp"}
}

func TestFamiliesAgreeWithNetSNMP(t *testing.T) {
	t.Parallel()
	s, names := families(t)
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			want := netSNMP(t, s.port, name, ".1")
			s.t, s.cred.Community = t, jobs.NewSecret(name)
			got := s.do("snmp.walk", map[string]any{"roots": []string{"1.0", "1.3"}}).ok(t)
			file, err := os.ReadFile(filepath.Join("testdata", name+".snmprec"))
			if err != nil {
				t.Fatal(err)
			}
			if lines := bytes.Count(file, []byte("\n")); len(got.Varbinds) != lines || len(want) != lines {
				t.Errorf("got %d objects, net-snmp has %d, the file %d", len(got.Varbinds), len(want), lines)
			}
			for _, v := range got.Varbinds {
				if words(v) != want[v.OID] {
					t.Errorf("%s: got %q, net-snmp has %q", v.OID, words(v), want[v.OID])
				}
			}
			t.Logf("%d values agree", len(want))
		})
	}
}

// A family whose GetBulk is broken above a size: what it cannot take is not
// answered, or cut off in the middle. All of its values come all the same.
func TestBrokenBulkAgreesWithNetSNMP(t *testing.T) {
	t.Parallel()
	s, _ := families(t)
	for name, broken := range map[string]func(answer []byte) [][]byte{
		"silent": func([]byte) [][]byte { return nil },
		"cut":    func(answer []byte) [][]byte { return [][]byte{answer[:484]} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			agent, err := net.Dial("udp", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { agent.Close() })
			p := relayed(t, func(packet []byte) [][]byte {
				if _, err := agent.Write(packet); err != nil {
					return nil
				}
				_ = agent.SetReadDeadline(time.Now().Add(30 * time.Second))
				answer := make([]byte, 65535)
				n, err := agent.Read(answer)
				if err != nil {
					return nil
				}
				if answer = answer[:n]; n > 484 {
					return broken(answer)
				}
				return [][]byte{answer}
			})
			p.cred.Community = jobs.NewSecret("mikrotik")
			want := netSNMP(t, s.port, "mikrotik", "1.3.6.1.4.1.14988")
			got := p.do("snmp.walk", map[string]any{"root": "1.3.6.1.4.1.14988"}).ok(t)
			if len(got.Varbinds) != len(want) || len(want) < 400 {
				t.Errorf("got %d objects, net-snmp has %d", len(got.Varbinds), len(want))
			}
			for _, v := range got.Varbinds {
				if words(v) != want[v.OID] {
					t.Errorf("%s: got %q, net-snmp has %q", v.OID, words(v), want[v.OID])
				}
			}
			t.Logf("%d values agree, in %d requests; learned %+v", len(want), p.asked.Load(), got.Learned)
		})
	}
}

func TestAgentAgreesWithNetSNMP(t *testing.T) {
	t.Parallel()
	s := snmpd(t)
	for _, root := range []string{"1.3.6.1.2.1.1", "1.3.6.1.2.1.2", "1.3.6.1.2.1.31", "1.3.6.1.6.3"} {
		var differ []string
		for range 5 { // the agent tells of a machine on which things happen
			before := netSNMP(t, s.port, lab.WriteCommunity, root)
			got := s.do("snmp.walk", map[string]any{"root": root}).ok(t)
			after := netSNMP(t, s.port, lab.WriteCommunity, root)
			if differ = compare(before, after, got.Varbinds); len(differ) == 0 {
				t.Logf("%s: %d values agree", root, len(got.Varbinds))
				break
			}
		}
		if len(differ) > 0 {
			t.Errorf("%s: %d of the values differ each time: %s", root, len(differ), strings.Join(differ[:min(5, len(differ))], "; "))
		}
	}
}

// compare wants what was there before and after to be there in between, with
// one of these values, or, where it counts, with one between them.
func compare(before, after map[string]string, got []Varbind) (differ []string) {
	ours := make(map[string]string, len(got))
	for _, v := range got {
		ours[v.OID] = words(v)
	}
	for oid, first := range before {
		last, ok := after[oid]
		if mine := ours[oid]; ok && mine != first && mine != last && !between(first, mine, last) {
			differ = append(differ, fmt.Sprintf("%s: %q, net-snmp has %q and %q", oid, mine, first, last))
		}
	}
	return differ
}

func between(first, mine, last string) bool {
	kind, _, _ := strings.Cut(first, " ")
	if !strings.HasPrefix(kind, "Counter") && kind != "TimeTicks" {
		return false
	}
	number := func(s string) uint64 {
		n, _ := strconv.ParseUint(strings.TrimPrefix(s, kind+" "), 10, 64)
		return n
	}
	return strings.HasPrefix(mine, kind+" ") && number(first) <= number(mine) && number(mine) <= number(last)
}

func TestTableOfAnOLT(t *testing.T) {
	t.Parallel()
	s, _ := families(t)
	s.cred.Community = jobs.NewSecret("olt")
	serial, power := "1.3.6.1.4.1.99999.2.3.1.2", "1.3.6.1.4.1.99999.2.3.1.4"
	got := s.do("snmp.table", map[string]any{"columns": []string{serial, power}}).ok(t)
	if len(got.Rows) != 16*32 {
		t.Fatalf("got %d ONUs", len(got.Rows))
	}
	row := got.Rows[33] // port 2, ONU 2
	if row.Index != "268435968.2" || *row.Values[serial].Hex != "47504f4e0202a2fd" || row.Values[power].Value != -2022.0 {
		t.Errorf("got %+v", row)
	}
	got = s.do("snmp.table", map[string]any{"columns": []string{serial, power}}, func(job *jobs.Job) { job.Limits.MaxRows = 10 }).ok(t)
	if len(got.Rows) != 10 || len(got.Rows[9].Values) != 2 || !got.Truncated || !got.Partial || got.LastOID == "" {
		t.Errorf("limited to 10 rows: %d rows, last %s, truncated %v", len(got.Rows), got.LastOID, got.Truncated)
	}
}

func TestWalkGoesOnBehindItsLastObject(t *testing.T) {
	t.Parallel()
	s, _ := families(t)
	s.cred.Community = jobs.NewSecret("switch48")
	const root = "1.3.6.1.2.1.2.2"
	want := s.do("snmp.walk", map[string]any{"root": root}).ok(t).Varbinds
	var got []Varbind
	for after := ""; ; {
		params := map[string]any{"root": root}
		if after != "" {
			params["after"] = after
		}
		part := s.do("snmp.walk", params, func(job *jobs.Job) { job.Limits.MaxRows = 100 }).ok(t)
		got = append(got, part.Varbinds...)
		if after = part.LastOID; !part.Partial {
			break
		}
	}
	if len(got) != len(want) || len(want) != 48*11 {
		t.Fatalf("got %d objects in parts, %d at once", len(got), len(want))
	}
	for i := range want {
		if words(got[i]) != words(want[i]) || got[i].OID != want[i].OID {
			t.Errorf("got %+v, want %+v", got[i], want[i])
		}
	}
}

func TestWalkOfOneObject(t *testing.T) {
	t.Parallel()
	s, _ := families(t)
	s.cred.Community = jobs.NewSecret("ups")
	for root, want := range map[string]int{"1.3.6.1.2.1.1.5.0": 1, "1.3.6.1.2.1.99": 0} {
		if got := s.do("snmp.walk", map[string]any{"root": root}).ok(t); len(got.Varbinds) != want {
			t.Errorf("%s: got %v", root, got.Varbinds)
		}
	}
}
