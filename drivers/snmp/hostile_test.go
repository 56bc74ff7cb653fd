package snmp

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gosnmp/gosnmp"

	"usm-satellite/drivers/simulator"
	"usm-satellite/jobs"
)

// peer is an agent of version 2c whose answers a test makes up.
type peer struct {
	*site

	asked atomic.Int64 // requests that came
}

// hostile starts a peer. The function gets each request, and returns what is
// sent for it, packet by packet.
func hostile(t *testing.T, answer func(request *gosnmp.SnmpPacket) [][]byte) *peer {
	t.Helper()
	return relayed(t, func(packet []byte) [][]byte {
		request, err := (&gosnmp.GoSNMP{Version: gosnmp.Version2c}).SnmpDecodePacket(packet)
		if err != nil {
			t.Errorf("the driver sent what cannot be read: %x", packet)
			return nil
		}
		return answer(request)
	})
}

// relayed is hostile with packets as they are.
func relayed(t *testing.T, answer func(packet []byte) [][]byte) *peer {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{site: newSite(t, conn.LocalAddr().(*net.UDPAddr).Port)}
	done := make(chan struct{})
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
	go func() {
		defer close(done)
		buffer := make([]byte, 65535)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			p.asked.Add(1)
			for _, packet := range answer(buffer[:n]) {
				_, _ = conn.WriteTo(packet, from)
			}
		}
	}()
	return p
}

// reply is a proper answer to a request.
func reply(request *gosnmp.SnmpPacket, vars ...gosnmp.SnmpPDU) []byte {
	request.PDUType, request.Variables, request.Error, request.ErrorIndex = gosnmp.GetResponse, vars, gosnmp.NoError, 0
	request.NonRepeaters, request.MaxRepetitions = 0, 0
	packet, err := request.MarshalMsg()
	if err != nil {
		panic(err)
	}
	return packet
}

func number(oid string, n int) gosnmp.SnmpPDU {
	return gosnmp.SnmpPDU{Name: oid, Type: gosnmp.Integer, Value: n}
}

const tree = "1.3.6.1.4.1.99999"

// endless goes on behind any object.
func endless(request *gosnmp.SnmpPacket) []gosnmp.SnmpPDU {
	from := strings.TrimPrefix(request.Variables[0].Name, ".")
	n, _ := strconv.Atoi(strings.TrimPrefix(from, tree+"."))
	rows := max(1, int(request.MaxRepetitions))
	vars := make([]gosnmp.SnmpPDU, rows)
	for i := range vars {
		vars[i] = number(tree+"."+strconv.Itoa(n+i+1), n+i+1)
	}
	return vars
}

func TestEndlessWalkIsCut(t *testing.T) {
	t.Parallel()
	profile, err := simulator.Load("hostile-endless")
	if err != nil {
		t.Fatal(err)
	}
	p := newSite(t, simulated(t, profile))
	got := p.do("snmp.walk", map[string]any{"root": tree}, func(job *jobs.Job) { job.Limits.MaxRows = 1000 }).ok(t)
	if len(got.Varbinds) != 1000 || !got.Truncated || got.LastOID != tree+".424242.1000" {
		t.Errorf("got %d objects up to %s", len(got.Varbinds), got.LastOID)
	}
	got = p.do("snmp.walk", map[string]any{"root": tree}, func(job *jobs.Job) { job.Limits.MaxResultBytes = 100_000 }).ok(t)
	if n := len(got.Varbinds); n < 500 || n > 2000 || !got.Truncated {
		t.Errorf("got %d objects in 100 kB", n)
	}
}

func TestWalkInACircleIsCut(t *testing.T) {
	t.Parallel()
	p := hostile(t, func(request *gosnmp.SnmpPacket) [][]byte {
		from := strings.TrimPrefix(request.Variables[0].Name, ".")
		n, _ := strconv.Atoi(strings.TrimPrefix(from, tree+"."))
		return [][]byte{reply(request, number(tree+"."+strconv.Itoa(n%5+1), n))}
	})
	got := p.do("snmp.walk", map[string]any{"root": tree}).failed(t, jobs.CodeProtocolError, jobs.StageParse)
	if len(got.Varbinds) != 5 || !got.Partial || got.LastOID != tree+".5" || !strings.Contains(got.fault.Message, "circle") {
		t.Errorf("got %d objects up to %s, %v", len(got.Varbinds), got.LastOID, got.fault)
	}
}

func TestRowsOutOfOrderAreBorne(t *testing.T) {
	t.Parallel()
	order := []int{1, 2, 10, 3, 7, 4}
	p := hostile(t, func(request *gosnmp.SnmpPacket) [][]byte {
		from := strings.TrimPrefix(request.Variables[0].Name, ".")
		next := order[0]
		for i, n := range order {
			if from == tree+".1."+strconv.Itoa(n) {
				if i == len(order)-1 {
					return [][]byte{reply(request, number(tree+".2.1", 0))}
				}
				next = order[i+1]
			}
		}
		return [][]byte{reply(request, number(tree+".1."+strconv.Itoa(next), next))}
	})
	got := p.do("snmp.walk", map[string]any{"root": tree + ".1"}).ok(t)
	if len(got.Varbinds) != len(order) || len(got.Warnings) != 1 {
		t.Errorf("got %d objects, warnings %q", len(got.Varbinds), got.Warnings)
	}
}

func TestGarbage(t *testing.T) {
	t.Parallel()
	for name, packet := range map[string]string{
		"empty": "", "text": "68656c6c6f", "length": "30848fffffff020101", "zeros": strings.Repeat("00", 300), "cut": "3026020101040670",
		"deep": strings.Repeat("3080", 500),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			raw, err := hex.DecodeString(packet)
			if err != nil {
				t.Fatal(err)
			}
			p := hostile(t, func(*gosnmp.SnmpPacket) [][]byte { return [][]byte{raw} })
			for _, action := range []string{"snmp.get", "snmp.walk"} {
				params := map[string]any{"oids": []string{tree + ".1"}}
				if action == "snmp.walk" {
					params = map[string]any{"root": tree}
				}
				got := p.do(action, params, within(30*time.Second))
				if got.fault == nil || got.fault.Code != jobs.CodeProtocolError {
					t.Errorf("%s: got %v", action, got.fault)
				}
			}
		})
	}
}

func TestAnswersToOtherRequestsAreNone(t *testing.T) {
	t.Parallel()
	p := hostile(t, func(request *gosnmp.SnmpPacket) [][]byte {
		request.RequestID += 77
		return [][]byte{reply(request, number(tree+".1", 666))}
	})
	got := p.do("snmp.get", map[string]any{"oids": []string{tree + ".1"}}, within(2*time.Second))
	if got.fault == nil || got.fault.Code != jobs.CodeProtocolError && got.fault.Code != jobs.CodeTimeout {
		t.Errorf("got %v, %v", got.fault, got.Varbinds)
	}
	p = hostile(t, func(request *gosnmp.SnmpPacket) [][]byte { return [][]byte{reply(request, number(tree+".2", 666))} })
	p.do("snmp.get", map[string]any{"oids": []string{tree + ".1"}}).failed(t, jobs.CodeProtocolError, jobs.StageParse)
}

// A device whose GetBulk is broken in some way is walked all the same, and is
// known for it in the next job.
func TestBrokenBulk(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]func(request *gosnmp.SnmpPacket) [][]byte{
		"silent":     func(*gosnmp.SnmpPacket) [][]byte { return nil },
		"unreadable": func(*gosnmp.SnmpPacket) [][]byte { return [][]byte{{0x30, 0x82, 0xff}} },
		"too big": func(request *gosnmp.SnmpPacket) [][]byte {
			vars := request.Variables
			packet := *request
			packet.PDUType, packet.Error, packet.Variables, packet.NonRepeaters, packet.MaxRepetitions = gosnmp.GetResponse, gosnmp.TooBig, vars, 0, 0
			raw, err := packet.MarshalMsg()
			if err != nil {
				panic(err)
			}
			return [][]byte{raw}
		},
	} {
		for _, most := range []uint32{0, 3} { // of rows that it stands
			t.Run(fmt.Sprint(name, " above ", most), func(t *testing.T) {
				t.Parallel()
				const rows = 40
				p := hostile(t, func(request *gosnmp.SnmpPacket) [][]byte {
					if request.PDUType == gosnmp.GetBulkRequest && request.MaxRepetitions > most {
						return broken(request)
					}
					vars := endless(request)
					for i := range vars {
						if n, _ := vars[i].Value.(int); n > rows {
							vars[i] = gosnmp.SnmpPDU{Name: tree + "." + strconv.Itoa(rows), Type: gosnmp.EndOfMibView}
						}
					}
					return [][]byte{reply(request, vars...)}
				})
				got := p.do("snmp.walk", map[string]any{"root": tree}).ok(t)
				first := p.asked.Load()
				again := p.do("snmp.walk", map[string]any{"root": tree}).ok(t)
				second := p.asked.Load() - first
				if len(got.Varbinds) != rows || len(again.Varbinds) != rows {
					t.Errorf("got %d and %d of %d objects", len(got.Varbinds), len(again.Varbinds), rows)
				}
				// A machine that stalls makes more of a device silent than is broken.
				report, ok := again.Learned.(learned)
				if !ok || most == 0 && !report.NoBulk || report.MaxRepetitions > 3 {
					t.Errorf("learned %+v", again.Learned)
				}
				if report.NoBulk == (most == 0) && second >= first {
					t.Errorf("%d requests, then %d", first, second)
				}
			})
		}
	}
}

func TestTooManyObjectsAreHalved(t *testing.T) {
	t.Parallel()
	p := hostile(t, func(request *gosnmp.SnmpPacket) [][]byte {
		vars := request.Variables
		if len(vars) > 5 {
			request.PDUType, request.Error = gosnmp.GetResponse, gosnmp.TooBig
			raw, err := request.MarshalMsg()
			if err != nil {
				panic(err)
			}
			return [][]byte{raw}
		}
		for i := range vars {
			vars[i] = number(vars[i].Name, i)
		}
		return [][]byte{reply(request, vars...)}
	})
	var oids []string
	for i := range 70 {
		oids = append(oids, tree+"."+strconv.Itoa(i+1))
	}
	got := p.do("snmp.get", map[string]any{"oids": oids}).ok(t)
	if len(got.Varbinds) != 70 || got.Varbinds[69].OID != oids[69] {
		t.Errorf("got %d objects", len(got.Varbinds))
	}
	if report, ok := got.Learned.(learned); !ok || report.MaxOIDs < 3 || report.MaxOIDs > 5 {
		t.Errorf("learned %+v", got.Learned)
	}
}

// A set whose answer is lost is sent once, and its outcome is unknown.
func TestSetIsSentOnce(t *testing.T) {
	t.Parallel()
	var sets atomic.Int64
	p := hostile(t, func(request *gosnmp.SnmpPacket) [][]byte {
		if request.PDUType == gosnmp.SetRequest {
			sets.Add(1)
			return nil
		}
		return [][]byte{reply(request, number("1.3.6.1.2.1.1.3.0", 1))}
	})
	params := map[string]any{"varbinds": []map[string]any{{"oid": tree + ".1", "type": "Integer", "value": 1}}}
	p.do("snmp.set", params, within(6*time.Second), func(job *jobs.Job) {
		job.Credentials = append(job.Credentials, job.Credentials...)
	}).failed(t, jobs.CodeTimeout, jobs.StageExecute)
	if n := sets.Load(); n != 1 {
		t.Errorf("the set was sent %d times", n)
	}
}

// Nothing is set with a credential that the device does not answer.
func TestSetTriesCredentialsBeforeItSets(t *testing.T) {
	t.Parallel()
	s := snmpd(t)
	good := s.cred
	params := map[string]any{"varbinds": []map[string]any{{"oid": "1.3.6.1.2.1.1.6.0", "type": "OctetString", "value": "here"}}}
	s.do("snmp.set", params, within(20*time.Second), func(job *jobs.Job) {
		job.Credentials = []jobs.Credential{{SNMP: &jobs.SNMPCredential{Version: "2c", Community: jobs.NewSecret("wrong")}}, {SNMP: &good}}
	}).ok(t)
	s.do("snmp.set", params, within(2*time.Second), func(job *jobs.Job) {
		job.Credentials[0].SNMP = &jobs.SNMPCredential{Version: "2c", Community: jobs.NewSecret("wrong")}
	}).failed(t, jobs.CodeTimeout, jobs.StageConnect)
	got := s.do("snmp.set", map[string]any{"varbinds": []map[string]any{{"oid": "1.3.6.1.2.1.1.6.0", "type": "Integer", "value": 1}}})
	if got.fault == nil || got.fault.Code != jobs.CodeCommandError {
		t.Errorf("a value of the wrong type: got %v", got.fault)
	}
}

func TestCancelledWhileSilent(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 16)
	p := hostile(t, func(*gosnmp.SnmpPacket) [][]byte {
		asked <- struct{}{}
		return nil
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-asked
		cancel(jobs.ErrCancelled)
	}()
	got := p.doCtx(ctx, "snmp.walk", map[string]any{"root": tree})
	if got.fault == nil || got.fault.Code != jobs.CodeCancelled {
		t.Errorf("got %v", got.fault)
	}
}

func TestTimeoutIsLearned(t *testing.T) {
	t.Parallel()
	var d device
	if d.timeout() != firstTimeout {
		t.Errorf("an unknown device gets %s", d.timeout())
	}
	for range 20 {
		d = d.answered(time.Millisecond, 100)
	}
	if d.timeout() != leastTimeout || d.PDUBytes != 100 {
		t.Errorf("a fast device gets %s", d.timeout())
	}
	for range 40 {
		d = d.answered(2*time.Second, 1400)
	}
	if got := d.timeout(); got < 3*time.Second || got > 6*time.Second || d.PDUBytes != 1400 {
		t.Errorf("a device that takes 2 s gets %s", got)
	}
}

func TestLimitsAreTriedAgain(t *testing.T) {
	t.Parallel()
	d := device{}.shrunk(25).shrunk(8).shrunk(2)
	if !d.NoBulk {
		t.Fatalf("got %+v", d)
	}
	for range regrowAfter {
		d = d.answered(time.Millisecond, 1)
	}
	if d.NoBulk || d.MaxRepetitions != 2 {
		t.Errorf("got %+v", d)
	}
}
