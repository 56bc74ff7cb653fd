//go:build compare

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"usm-satellite/broker"
	"usm-satellite/deploy/lab"
	"usm-satellite/deploy/lab/rounds"
	"usm-satellite/jobs"
	"usm-satellite/tunnel"
)

// TestCompare measures the tunnel in the process beside an OS VPN (wireguard-go
// on TUN devices at both ends, the version that the satellite is built with and
// Debian's), on this machine at the same time. A site in a namespace of its own works through jobs that wait in its
// queue. Figures are ratios; no ratio fails the test, for the machine decides
// them too: a lost or failed job does.
func TestCompare(t *testing.T) {
	b := newBench(t)
	rows := [][]string{{"WHAT", "TUNNEL", "BESIDE", "RATIO", "AIM", ""}}
	parts := []struct {
		name string
		rows func() [][]string
	}{
		{"bare300", func() [][]string { return b.bareLoops(300) }},
		{"bare8192", func() [][]string { return b.bareLoops(8192) }},
		{"jobs300", func() [][]string { return b.loops("300 B") }},
		{"jobs8192", func() [][]string { return b.loops("8 KiB") }},
		{"far", func() [][]string { return [][]string{b.far()} }},
		{"cold", func() [][]string { return [][]string{b.coldStarts()} }},
		{"slots", func() [][]string { return [][]string{b.slots()} }},
	}
	only := os.Getenv("COMPARE_ONLY") // names of parts, by commas; empty: all
	for _, p := range parts {
		if only == "" || slices.Contains(strings.Split(only, ","), p.name) {
			rows = append(rows, p.rows()...)
		}
	}
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 4, 2, ' ', 0)
	for _, r := range rows {
		_, _ = fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	_ = w.Flush()
	t.Logf("medians of %d rounds:\n%s", b.rounds, &table)
}

// way is how the site reaches the broker.
type way struct {
	name     string
	settings []string    // of a satellite
	dsn      string      // of another client
	config   string      // file of its tunnel; empty: none
	daemon   *os.Process // whose CPU is the site's as well; nil: none
}

// bench is a site in a namespace, and the ways from there to the broker.
type bench struct {
	*site

	ns, near     string // the namespace, and this end of its wire
	loop         string // the program of the bare loop
	device       int
	rounds       int
	hubKey       tunnel.PrivateKey
	keys         []tunnel.PrivateKey
	hubPort      int
	tunnel       way
	vpns         []way // by wireguard-go of today, and of Debian
	plain, amqps way
	n            int // of runs, for ids
}

const benchKeys = 6

func newBench(t *testing.T) *bench {
	t.Helper()
	program = filepath.Join(t.TempDir(), "satellite") // without the race detector
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	loop := filepath.Join(t.TempDir(), "bareloop")
	if out, err := exec.Command("go", "build", "-o", loop, "../../deploy/lab/bareloop").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	node, err := lab.StartRabbit(t.Context(), lab.RabbitConfig{Dir: t.TempDir(), Address: "0.0.0.0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = node.Close() })
	b := &bench{site: newSite(t, node), loop: loop, rounds: rounds.Of(t, "COMPARE_ROUNDS", 5), hubKey: tunnel.NewPrivateKey(), hubPort: lab.Port()}
	b.ns, b.near, _ = namespaceOf(t, "e", os.Getpid())
	_, port, err := net.SplitHostPort(listenInside(t, b.ns, "127.0.0.1:0"))
	b.must(err)
	b.device, err = strconv.Atoi(port)
	b.must(err)
	for i := range 5 {
		b.must(node.DeclareQueue(t.Context(), b.vhost, fmt.Sprintf("usm_poller-sat-%d", 100+i), "quorum"))
	}
	b.ways()
	return b
}

// dsn is for a broker at a host, or at host:port.
func (b *bench) dsn(host string) string {
	if strings.Contains(host, ":") {
		return strings.Replace(b.node.DSN(b.vhost), loopback(b.node.Port), host, 1)
	}
	return strings.Replace(b.node.DSN(b.vhost), "127.0.0.1", host, 1)
}

// ways opens the hub and the OS VPN.
func (b *bench) ways() {
	dir := b.t.TempDir()
	var peers strings.Builder
	for i := range benchKeys {
		b.keys = append(b.keys, tunnel.NewPrivateKey())
		_, _ = fmt.Fprintf(&peers, "[Peer]\nPublicKey = %s\nAllowedIPs = 10.77.0.%d/32\n", b.keys[i].Public(), i+10)
	}
	b.must(os.WriteFile(filepath.Join(dir, "peers"), []byte(peers.String()), 0o600))
	b.startHub(dir, b.hubKey, b.hubPort, b.node.Port)
	endpoint := b.near + ":" + strconv.Itoa(b.hubPort)
	config := filepath.Join(dir, "wg.conf")
	b.must(os.WriteFile(config, []byte(b.quick(0, endpoint)), 0o600))
	b.tunnel = way{name: "tunnel", settings: b.behindHub(0, endpoint), dsn: b.dsn("10.77.0.1:5672"), config: config}
	b.vpns = []way{b.openVPN(0, "OS VPN of today", b.buildWireguardGo()), b.openVPN(1, "OS VPN of Debian", "wireguard-go")}
	b.plain = way{name: "plain AMQP", settings: []string{"US_AMQP_DSN", b.dsn(b.near)}, dsn: b.dsn(b.near)}
	// The certificate is for 127.0.0.1 and localhost: the namespace's own
	// loopback leads to the broker's TLS port.
	relayInside(b.t, b.ns, loopback(b.node.TLSPort), b.near+":"+strconv.Itoa(b.node.TLSPort))
	b.amqps = way{name: "AMQPS", settings: []string{"US_AMQP_DSN", b.node.TLSDSN(b.vhost), "USM_AMQP_CA_FILE", b.node.CAFile}}
}

func (b *bench) behindHub(i int, endpoint string) []string {
	return []string{
		"USM_WG_PRIVATE_KEY", b.keys[i].Reveal(), "USM_WG_ADDRESS", fmt.Sprintf("10.77.0.%d/32", i+10),
		"USM_WG_PEER_PUBLIC_KEY", b.hubKey.Public().String(), "USM_WG_ENDPOINT", endpoint, "USM_WG_BROKER", "10.77.0.1:5672",
	}
}

// quick is the same tunnel in wg-quick's form.
func (b *bench) quick(i int, endpoint string) string {
	return fmt.Sprintf("[Interface]\nPrivateKey = %s\nAddress = 10.77.0.%d/32\n[Peer]\nPublicKey = %s\nEndpoint = %s\nAllowedIPs = 10.77.0.1/32\n",
		b.keys[i].Reveal(), i+10, b.hubKey.Public(), endpoint)
}

// buildWireguardGo builds the version that the satellite is built with.
func (b *bench) buildWireguardGo() string {
	b.t.Helper()
	daemon := filepath.Join(b.t.TempDir(), "wireguard-go")
	if out, err := exec.Command("go", "build", "-o", daemon, "golang.zx2c4.com/wireguard").CombinedOutput(); err != nil {
		b.t.Fatalf("go build wireguard-go: %v: %s", err, out)
	}
	return daemon
}

// openVPN starts a wireguard-go on a TUN device at both ends; the MTU is
// wg-quick's.
func (b *bench) openVPN(n int, name, daemon string) way {
	b.t.Helper()
	keys := []tunnel.PrivateKey{tunnel.NewPrivateKey(), tunnel.NewPrivateKey()}
	inside := []string{"ip", "netns", "exec", b.ns}
	port := lab.Port()
	end := func(i int, enter []string, peer string) *os.Process {
		b.t.Helper()
		device := fmt.Sprintf("satv%d%d%d", n, i, os.Getpid()) // wg finds it by a path that the namespaces share
		line := append(slices.Clone(enter), daemon, "-f", device)
		cmd := exec.Command(line[0], line[1:]...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		b.must(cmd.Start())
		b.t.Cleanup(func() { _ = cmd.Process.Signal(syscall.SIGTERM); _ = cmd.Wait() })
		run := func(words string) { b.t.Helper(); sh(b.t, append(slices.Clone(enter), strings.Fields(words)...)...) }
		wait(b.t, "wireguard-go to make its device", func() bool {
			show := append(slices.Clone(enter), "wg", "show", device)
			return exec.Command(show[0], show[1:]...).Run() == nil
		})
		conf := filepath.Join(b.t.TempDir(), "wg.conf")
		b.must(os.WriteFile(conf, []byte(fmt.Sprintf("[Interface]\nPrivateKey = %s\nListenPort = %d\n[Peer]\nPublicKey = %s\nAllowedIPs = 10.98.%d.0/24\n%s",
			keys[i].Reveal(), port, keys[1-i].Public(), 76+n, peer)), 0o600))
		run("wg setconf " + device + " " + conf)
		run(fmt.Sprintf("ip address add 10.98.%d.%d/24 dev %s", 76+n, i+1, device))
		run("ip link set " + device + " mtu 1420 up")
		return cmd.Process
	}
	end(0, nil, "")
	dsn := b.dsn(fmt.Sprintf("10.98.%d.1", 76+n))
	return way{
		name: name, settings: []string{"US_AMQP_DSN", dsn}, dsn: dsn,
		daemon: end(1, inside, fmt.Sprintf("Endpoint = %s:%d\n", b.near, port)),
	}
}

// launch starts a satellite at the site; it does not wait for it.
func (b *bench) launch(state string, settings ...string) *process {
	b.t.Helper()
	env := b.env(append([]string{"USM_STATE_DIR", state, "USM_LOG_LEVEL", "warn"}, settings...)...)
	return b.inside(b.ns, env)
}

// fill puts n jobs into a queue. The site's policy answers them, so that the
// way is what is measured: no driver runs, and no device. A job of 8 KiB gets
// an answer of half its size, for metadata is limited.
func (b *bench) fill(core *broker.Core, queue, size string, n int) {
	b.t.Helper()
	b.n++
	pad := ""
	if size == "8 KiB" {
		pad = `,"metadata":"` + strings.Repeat("m", 4000) + `"` + strings.Repeat(" ", 3900)
	}
	for i := range n {
		id := fmt.Sprintf("%d-%d", b.n, i)
		body := job(id, "snmp.get", fmt.Sprintf(`"target":{"address":"192.0.2.1","device_id":"device-%d"},"timeout_ms":60000,"credentials":[{"snmp":{"version":"2c","community":"public"}}],"params":{"oids":["1.3.6.1.2.1.1.5.0"]}%s`,
			i%1000, pad))
		b.must(core.Submit(b.t.Context(), broker.CoreMessage{Queue: queue, ID: id, ReplyTo: "erp.core", Body: body}))
	}
	b.must(core.Settled(b.t.Context()))
}

// work is what was measured of satellites that work through a queue.
type work struct {
	rate float64       // jobs a second
	cpu  time.Duration // of the site's processes for a job
}

// measure lets satellites with these settings (one for each state directory,
// or for each process) work through what is queued, and looks at the middle
// eight tenths.
func (b *bench) measure(total int, daemon *os.Process, sites ...[]string) work {
	b.t.Helper()
	b.must(b.node.DeleteQueue(b.t.Context(), b.vhost, "erp.core"))
	b.must(b.node.DeclareQueue(b.t.Context(), b.vhost, "erp.core", "quorum"))
	dirs := make(map[string]bool)
	var running []*process
	pids := []int{}
	if daemon != nil {
		pids = append(pids, daemon.Pid)
	}
	for _, settings := range sites {
		dir := b.t.TempDir()
		if i := slices.Index(settings, "USM_STATE_DIR"); i >= 0 {
			dir = settings[i+1]
		}
		dirs[dir] = true
		p := b.launch(dir, settings...)
		running = append(running, p)
		pids = append(pids, p.cmd.Process.Pid)
	}
	from, fromAt, fromCPU := b.reach(dirs, total/10, pids)
	to, toAt, toCPU := b.reach(dirs, total*9/10, pids)
	b.reach(dirs, total, pids)
	for _, p := range running {
		p.stop(b.t)
	}
	n := time.Duration(max(to-from, 1))
	return work{rate: float64(to-from) / toAt.Sub(fromAt).Seconds(), cpu: (toCPU - fromCPU) / n}
}

// reach waits until so many jobs are answered, none of them otherwise than by the
// policy.
func (b *bench) reach(dirs map[string]bool, n int, pids []int) (done int, at time.Time, cpu time.Duration) {
	b.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		done = 0
		for dir := range dirs {
			all, _ := ask[status](b.t.Context(), "satellite", dir, "/status")
			for _, s := range all {
				done += int(s.Jobs.Published)
				for kind, count := range s.Jobs.Results {
					if kind != jobs.StatusDenied && count > 0 {
						b.t.Fatalf("%d jobs were %s", count, kind)
					}
				}
			}
		}
		if done >= n {
			for _, pid := range pids {
				cpu += processCPU(pid)
			}
			return done, time.Now(), cpu
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("%d of %d jobs after %s", done, n, patience)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// processCPU is the time of all threads of a process, user and system.
func processCPU(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(text), ") ")
	f := strings.Fields(after)
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	const tick = 10 * time.Millisecond
	return time.Duration(user+system) * tick
}

// loops compares how a backlog of jobs is worked through.
func (b *bench) loops(size string) [][]string {
	n, aimRate, aimCPU := 20000, 1.5, 0.5
	if size == "8 KiB" {
		n, aimRate, aimCPU = 6000, 1.25, 0.6
	}
	core := b.core(broker.CoreOptions{})
	what := size + " jobs"
	rates, cpus := b.turns(what, func(w *way) work {
		b.fill(core, "usm_poller-sat-7", size, n)
		return b.measure(n, w.daemon, w.settings)
	})
	var alone [][]string
	for _, vpn := range b.vpns {
		alone = append(alone, wayAlone(what, vpn.name, median(cpus[b.tunnel.name]), median(cpus[vpn.name]), median(cpus[b.plain.name])))
	}
	return append(b.beside(what, rates, cpus, aimRate, aimCPU), alone...)
}

// turns measures the tunnel, plain AMQP and the OS VPNs in turns, and returns
// jobs a second and microseconds of the site's CPU a job by the way's name.
func (b *bench) turns(what string, measure func(w *way) work) (rates, cpus map[string][]float64) {
	b.t.Helper()
	rates, cpus = map[string][]float64{}, map[string][]float64{}
	ways := append([]way{b.tunnel, b.plain}, b.vpns...)
	for i := range b.rounds {
		for j := range ways {
			w := &ways[(i+j)%len(ways)] // none is always the first
			got := measure(w)
			rates[w.name] = append(rates[w.name], got.rate)
			cpus[w.name] = append(cpus[w.name], float64(got.cpu)/float64(time.Microsecond))
			b.t.Logf("%s, %s: %.0f jobs/s, %s of CPU a job", what, w.name, got.rate, got.cpu)
		}
	}
	return rates, cpus
}

// beside sets the tunnel beside the other ways; the aims are for the OS VPNs.
func (b *bench) beside(what string, rates, cpus map[string][]float64, aimRate, aimCPU float64) (rows [][]string) {
	add := func(name string, aimRate, aimCPU float64) {
		rows = append(rows,
			higher(what+", jobs/s, beside "+name, rates[b.tunnel.name], rates[name], aimRate),
			lower(what+", µs CPU of the site a job, beside "+name, cpus[b.tunnel.name], cpus[name], aimCPU))
	}
	for _, vpn := range b.vpns {
		add(vpn.name, aimRate, aimCPU)
	}
	add(b.plain.name, 0, 0)
	return rows
}

func median(of []float64) float64 {
	of = slices.Clone(of)
	slices.Sort(of)
	return of[len(of)/2]
}

// ratios are of the rounds: what the machine did meanwhile is in both.
func ratios(a, b []float64) []float64 {
	var all []float64
	for i := range a {
		all = append(all, a[i]/b[i])
	}
	return all
}

// wayAlone is what the ways cost beyond the satellite's own work, which plain
// AMQP shows.
func wayAlone(what, name string, through, vpn, plain float64) []string {
	return []string{
		what + ", µs CPU of the way alone (less plain AMQP's), beside " + name, fmt.Sprintf("%.1f", through-plain), fmt.Sprintf("%.1f", vpn-plain),
		fmt.Sprintf("%.2f", (through-plain)/(vpn-plain)), "", "",
	}
}

func row(what string, a, b []float64, aim, verdict string) []string {
	all := ratios(a, b)
	return []string{
		what, fmt.Sprintf("%.1f", median(a)), fmt.Sprintf("%.1f", median(b)),
		fmt.Sprintf("%.2f (%.2f to %.2f)", median(all), slices.Min(all), slices.Max(all)), aim, verdict,
	}
}

func higher(what string, a, b []float64, aim float64) []string {
	if aim == 0 {
		return row(what, a, b, "", "")
	}
	return row(what, a, b, fmt.Sprintf("≥ %.2f", aim), met(median(ratios(a, b)) >= aim))
}

func lower(what string, a, b []float64, aim float64) []string {
	if aim == 0 {
		return row(what, a, b, "", "")
	}
	return row(what, a, b, fmt.Sprintf("≤ %.2f", aim), met(median(ratios(a, b)) <= aim))
}

func met(yes bool) string {
	if yes {
		return "met"
	}
	return "MISSED"
}
