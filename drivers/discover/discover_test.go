package discover

import (
	"context"
	"encoding/json"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"usm-satellite/deploy/lab"
	"usm-satellite/drivers/icmp"
	"usm-satellite/drivers/snmp"
	"usm-satellite/jobs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func allowed(networks ...string) (all []netip.Prefix) {
	for _, n := range networks {
		all = append(all, netip.MustParsePrefix(n))
	}
	return all
}

// scanner returns discover.scan on the loopback networks that are allowed.
// Agents of SNMP are at port in place of 161, which tests must not take.
func scanner(t *testing.T, port int, networks ...string) jobs.Action {
	t.Helper()
	network := &jobs.Network{Policy: &jobs.Policy{Targets: allowed(networks...)}}
	pinger := icmp.New(network)
	t.Cleanup(pinger.Close)
	get := snmp.Actions(snmp.Options{Network: network})["snmp.get"].Driver
	return Actions(Options{Network: network, Pinger: pinger, Wait: 20 * time.Second, SNMP: jobs.DriverFunc(func(ctx context.Context, job *jobs.Job) (jobs.Output, error) {
		job.Target.Port = port
		return get.Run(ctx, job)
	})})["discover.scan"]
}

func job(params string) *jobs.Job {
	return &jobs.Job{ID: "a", Action: "discover.scan", Params: json.RawMessage(params), Timeout: time.Minute}
}

func scanned(t *testing.T, action jobs.Action, job *jobs.Job) data {
	t.Helper()
	if fault := action.Check(job); fault != nil {
		t.Fatal(fault)
	}
	out, err := action.Driver.Run(t.Context(), job)
	if err != nil || out.Partial {
		t.Fatalf("partial %v, %v", out.Partial, err)
	}
	d := out.Data.(data)
	slices.SortFunc(d.Hosts, func(a, b host) int {
		return netip.MustParseAddr(a.Address).Compare(netip.MustParseAddr(b.Address))
	})
	return d
}

func TestScanFindsWhatAnswers(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.3:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	port := strconv.Itoa(ln.Addr().(*net.TCPAddr).Port)
	action := scanner(t, 0, "127.0.0.0/30", "127.0.0.4/32")
	d := scanned(t, action, job(`{"network":"127.0.0.0/29","probes":["icmp","tcp:`+port+`"]}`))
	// .0 and .7 are no hosts; .5 and .6 are not allowed.
	if d.Scanned != 4 || d.Answered != 4 || d.Denied != 2 || len(d.Hosts) != 4 {
		t.Fatalf("got %+v", d)
	}
	for i, want := range []string{"closed", "closed", "open", "closed"} {
		h := d.Hosts[i]
		if h.Address != "127.0.0."+strconv.Itoa(i+1) || h.TCP[port] != want || h.ICMPRTTMS == nil || *h.ICMPRTTMS < 0 || h.SNMP != nil {
			t.Errorf("got %+v, want port %s %s", h, port, want)
		}
	}
}

func TestScanAsksSNMP(t *testing.T) {
	agent, err := lab.StartSNMPD(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Close()
	j := job(`{"network":"127.0.0.0/30","probes":["snmp"]}`)
	j.Credentials = []jobs.Credential{{SNMP: &jobs.SNMPCredential{Version: "2c", Community: jobs.NewSecret(lab.Community)}}}
	d := scanned(t, scanner(t, agent.Port, "127.0.0.0/8"), j)
	if d.Scanned != 2 || d.Answered != 1 || len(d.Hosts) != 1 { // nothing listens on 127.0.0.2
		t.Fatalf("got %+v", d)
	}
	h := d.Hosts[0]
	if h.Address != "127.0.0.1" || h.SNMP == nil || h.SNMP.SysName == "" || h.SNMP.SysDescr == "" || h.SNMP.SysObjectID == "" {
		t.Errorf("got %+v", h)
	}
}

// Silence and garbage make no host, and do not hold the scan up.
func TestScanPassesBadAgentsBy(t *testing.T) {
	for name, answer := range map[string][]byte{"silent": nil, "garbled": []byte("220 ready\r\n")} {
		t.Run(name, func(t *testing.T) {
			agent, err := net.ListenPacket("udp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			done, asked := make(chan struct{}), 0
			go func() {
				defer close(done)
				packet := make([]byte, 2048)
				for {
					_, from, err := agent.ReadFrom(packet)
					if err != nil {
						return
					}
					asked++
					if answer != nil {
						_, _ = agent.WriteTo(answer, from)
					}
				}
			}()
			action := scanner(t, agent.LocalAddr().(*net.UDPAddr).Port, "127.0.0.0/8")
			d := action.Driver.(driver)
			d.Wait = time.Second
			action.Driver = d
			j := job(`{"network":"127.0.0.1/32","probes":["snmp"]}`)
			j.Credentials = []jobs.Credential{{SNMP: &jobs.SNMPCredential{Version: "2c", Community: jobs.NewSecret(lab.Community)}}}
			found := scanned(t, action, j)
			agent.Close()
			<-done
			if found.Scanned != 1 || found.Answered != 0 || len(found.Hosts) != 0 || asked == 0 {
				t.Errorf("asked %d times, got %+v", asked, found)
			}
		})
	}
}

func TestNothingIsAllowed(t *testing.T) {
	out, err := scanner(t, 0, "127.0.0.1/32").Driver.Run(t.Context(), job(`{"network":"127.0.1.0/24"}`))
	fault := jobs.FaultOf(t.Context(), err)
	if fault.Code != jobs.CodePolicyDenied || out.Data.(data).Denied != 254 || out.Data.(data).Scanned != 0 {
		t.Errorf("got %v, %+v", fault, out.Data)
	}
}

func TestScanComesInParts(t *testing.T) {
	var mu sync.Mutex
	got := make(map[string]bool)
	ctx := jobs.WithEmit(t.Context(), func(p any) error {
		mu.Lock()
		defer mu.Unlock()
		for _, h := range p.(part).Hosts {
			if got[h.Address] {
				t.Errorf("%s came twice", h.Address)
			}
			got[h.Address] = true
		}
		return nil
	})
	j := job(`{"network":"127.0.2.0/24","rate":500}`)
	j.Stream = true
	out, err := scanner(t, 0, "127.0.0.0/8").Driver.Run(ctx, j)
	if d := out.Data.(data); err != nil || len(d.Hosts) != 0 || d.Answered != 254 || d.Scanned != 254 || len(got) != 254 {
		t.Errorf("%d hosts in parts, %d in the result of %d: %v", len(got), len(d.Hosts), d.Answered, err)
	}
}

func TestScanIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	var ended time.Time
	ctx = jobs.WithEmit(ctx, func(any) error {
		if ended.IsZero() {
			ended = time.Now()
			cancel(jobs.ErrCancelled)
		}
		return nil
	})
	j := job(`{"network":"127.3.0.0/16","rate":200}`)
	j.Stream = true
	out, err := scanner(t, 0, "127.0.0.0/8").Driver.Run(ctx, j)
	t.Logf("returned %s after", time.Since(ended))
	d := out.Data.(data)
	if fault := jobs.FaultOf(ctx, err); fault.Code != jobs.CodeCancelled || !out.Partial || d.Answered == 0 || d.Scanned > 60000 {
		t.Errorf("got %v, partial %v, %d of %d answered", fault, out.Partial, d.Answered, d.Scanned)
	}
}

func TestScanKeepsTheLimits(t *testing.T) {
	action := scanner(t, 0, "127.0.0.0/8")
	for name, limits := range map[string]jobs.Limits{"bytes": {MaxResultBytes: 4096}, "rows": {MaxRows: 10}} {
		j := job(`{"network":"127.0.3.0/24","rate":500}`)
		j.Limits = limits
		out, err := action.Driver.Run(t.Context(), j)
		text, _ := json.Marshal(out.Data)
		d := out.Data.(data)
		if err != nil || !out.Truncated || d.Answered != 254 || len(d.Hosts) == 0 || len(text) > 4096 || limits.MaxRows > 0 && len(d.Hosts) != limits.MaxRows {
			t.Errorf("%s: %d bytes, %d hosts of %d, truncated %v, %v", name, len(text), len(d.Hosts), d.Answered, out.Truncated, err)
		}
	}
}

// The rate holds: 20 probes at 50 a second cannot be sent in less than 380 ms.
func TestScanKeepsTheRate(t *testing.T) {
	p := pacer{step: 20 * time.Millisecond}
	began := time.Now()
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { p.wait(t.Context()) })
	}
	all.Wait()
	if took := time.Since(began); took < 380*time.Millisecond {
		t.Errorf("20 probes went out within %s", took)
	}
}

func TestBadParamsAreInvalid(t *testing.T) {
	for _, params := range []string{
		`{}`, `{"network":"192.0.2.1"}`, `{"network":"10.0.0.0/15"}`, `{"network":"2001:db8::/64"}`, `{"network":"::ffff:192.0.2.0/120"}`,
		`{"network":"192.0.2.0/24","probes":[]}`, `{"network":"192.0.2.0/24","probes":["udp:53"]}`, `{"network":"192.0.2.0/24","probes":["tcp:0"]}`,
		`{"network":"192.0.2.0/24","probes":["tcp:65536"]}`, `{"network":"192.0.2.0/24","probes":["tcp:"]}`, `{"network":"192.0.2.0/24","probes":["icmp","icmp"]}`,
		`{"network":"192.0.2.0/24","rate":0}`, `{"network":"192.0.2.0/24","rate":5001}`,
	} {
		if fault := check(job(params)); fault == nil || fault.Code != jobs.CodeInvalidJob {
			t.Errorf("%s: got %v", params, fault)
		}
	}
	if fault := check(job(`{"network":"192.0.2.0/24","probes":["snmp"]}`)); fault == nil || fault.Code != jobs.CodeNoCredentials {
		t.Errorf("snmp without a credential: got %v", fault)
	}
}

func TestAddresses(t *testing.T) {
	for network, want := range map[string]int{
		"192.0.2.0/24": 254, "192.0.2.9/32": 1, "192.0.2.8/31": 2, "192.0.2.8/30": 2, "10.1.0.0/16": 65534,
		"255.255.255.252/30": 2, "2001:db8::/127": 2, "2001:db8::/112": 65536, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127": 2,
	} {
		p, fault := decode(job(`{"network":"` + network + `"}`))
		if fault != nil {
			t.Fatal(fault)
		}
		n := 0
		for range p.addresses {
			n++
		}
		if n != want {
			t.Errorf("%s has %d addresses, want %d", network, n, want)
		}
	}
}
