package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"usm-satellite/deploy/lab"
	"usm-satellite/jobs"
)

const demoHelp = `Usage:
  satctl demo [options]

Shows the whole path on one machine, with real parts: RabbitMQ, which listens
on loopback only; the hub beside it; a satellite in a network namespace of its
own, that can reach the hub's UDP port and the equipment, and nothing else;
and net-snmp, FRR and OpenSSH as the equipment. The satellite is enrolled, its jobs go through
the WireGuard tunnel inside the two processes, and the broker is shown to be
out of its reach otherwise. It ends all that it started.

It needs the Debian packages rabbitmq-server and snmpd; with frr and
openssh-server there are a router and a server as well. make demo installs what
is missing. Who is not root gets a user namespace to be root in, and no OpenSSH.

Examples:
  make demo
  make demo KEEP=1           then play on, with the commands that it prints

Options:
  --keep                     stay until Ctrl-C (also: KEEP=1)
  --satellite-binary FILE    (default: satellite, beside satctl)

Exit codes: 0 all was shown; 1 something was not as it should be; 2 usage.
`

const (
	demoSatellite  = "7"
	demoPatience   = 60 * time.Second
	demoInnerPort  = 5672
	demoManyJobs   = 1000
	demoStopGrace  = 15 * time.Second
	demoSettleTime = 2 * time.Second
)

type demoOptions struct {
	keep   bool
	binary string
}

func (o *demoOptions) register(flags *flag.FlagSet, getenv func(string) string) {
	keep := getenv("KEEP")
	flags.BoolVar(&o.keep, "keep", keep != "" && keep != "0", "")
	flags.StringVar(&o.binary, "satellite-binary", "", "")
}

func demo(ctx context.Context, args []string, sys system) error {
	o := &demoOptions{}
	flags := newFlags("demo")
	o.register(flags, sys.Getenv)
	if err := parse(flags, args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return usagef("does not know what to do with %q", flags.Arg(0))
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return demoAsRoot(ctx, self, args, sys)
	}
	if o.binary == "" {
		o.binary = filepath.Join(filepath.Dir(self), "satellite")
	}
	if _, err := os.Stat(o.binary); err != nil {
		return usagef("the satellite's binary is missing: %w; make build makes it", err)
	}
	dir, err := os.MkdirTemp("", "satctl-demo-")
	if err != nil {
		return err
	}
	d := &demonstration{options: o, self: self, dir: dir, out: sys.Stdout}
	err = d.show(ctx)
	d.end()
	if err == nil {
		fmt.Fprintln(d.out, "\nAll was shown. Everything that was started is ended.")
	}
	return err
}

// demonstration is one run of the demo: the parts, and how they are ended.
type demonstration struct {
	options *demoOptions
	self    string // satctl's own binary
	dir     string
	out     io.Writer
	ends    []func()

	rabbit    *lab.Rabbit
	net       *demoNet
	eq        equipment
	hub       *child
	satellite *child
	hubPort   int
	hubKey    wgKeyPair
}

func (d *demonstration) onEnd(end func()) { d.ends = append(d.ends, end) }

// end ends everything, the last started first.
func (d *demonstration) end() {
	for _, end := range slices.Backward(d.ends) {
		end()
	}
	_ = os.RemoveAll(d.dir)
}

func (d *demonstration) show(ctx context.Context) error {
	for _, part := range []struct {
		title string
		run   func(context.Context) error
	}{
		{"The parts", d.parts},
		{"A new satellite is enrolled: keys, address, broker user with the least rights", d.enrol},
		{"Hub and satellite start", d.start},
		{"From the satellite's network, the broker cannot be reached without the tunnel", d.refusals},
		{"Jobs through the tunnel", d.jobs},
		{"The hub is ended: nothing else leads to the broker; it comes back: jobs flow again", d.hubGone},
		{"Figures", d.figures},
	} {
		fmt.Fprintf(d.out, "\n== %s\n", part.title)
		if err := part.run(ctx); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return errors.New("stopped")
			}
			d.logs()
			return fmt.Errorf("%s: %w", strings.ToLower(part.title[:1])+part.title[1:], err)
		}
	}
	if d.options.keep {
		d.playOn(ctx)
	}
	return nil
}

func (d *demonstration) parts(ctx context.Context) (err error) {
	if err := d.makeNet(ctx); err != nil {
		return err
	}
	fmt.Fprintf(d.out, "  network     namespace %s: the site; %s leads to the hub, %s to the equipment\n", d.net.name, d.net.wan, d.net.lan)
	if err := d.startEquipment(ctx); err != nil {
		return err
	}
	if err := d.folder("rabbit"); err != nil {
		return err
	}
	begin := time.Now()
	if d.rabbit, err = lab.StartRabbit(ctx, lab.RabbitConfig{Dir: filepath.Join(d.dir, "rabbit")}); err != nil {
		return err
	}
	d.onEnd(func() { _ = d.rabbit.Close() })
	fmt.Fprintf(d.out, "  broker      RabbitMQ at tcp 127.0.0.1:%d, loopback only  (%.1f s)\n", d.rabbit.Port, time.Since(begin).Seconds())
	return nil
}

func (d *demonstration) folder(name string) error {
	return os.Mkdir(filepath.Join(d.dir, name), 0o700)
}

func (d *demonstration) path(name string) string { return filepath.Join(d.dir, name) }

func (d *demonstration) enrol(ctx context.Context) (err error) {
	if d.hubKey, err = newKeyPair(); err != nil {
		return err
	}
	d.hubPort = lab.Port()
	code, out := d.satctl(ctx, "", "enroll", "--satellite", demoSatellite,
		"--endpoint", d.net.wan+":"+strconv.Itoa(d.hubPort), "--out", d.path("satellite-7.env"))
	d.indent(out)
	if code != exitOK {
		return fmt.Errorf("satctl enroll ended with %d", code)
	}
	return nil
}

// env is the environment of satctl as somebody at the core would have it.
func (d *demonstration) env() map[string]string {
	return map[string]string{
		"US_AMQP_DSN": d.rabbit.DSN("/"), "USM_RESULTS_EXCHANGE": defaultResultsExchange,
		"USM_MANAGEMENT_URL": d.rabbit.ManagementURL(), "USM_POLLER_SATELLITE_ID": demoSatellite,
		"USM_HUB_PRIVATE_KEY": d.hubKey.private.Reveal(), "USM_HUB_PEERS_FILE": d.path("peers.conf"),
		"USM_HUB_PORT": strconv.Itoa(demoInnerPort),
	}
}

// satctl runs a command of this program in this process, as it would run from
// a shell, and returns its exit code with what it printed.
func (d *demonstration) satctl(ctx context.Context, stdin string, args ...string) (int, string) {
	var out bytes.Buffer
	env := d.env()
	code := run(ctx, args, system{
		Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &out,
		Getenv: func(name string) string { return env[name] },
	})
	return code, out.String()
}

func (d *demonstration) indent(text string) {
	for line := range strings.Lines(text) {
		fmt.Fprint(d.out, "  ", line)
	}
}

func (d *demonstration) start(ctx context.Context) error {
	if err := d.startHub(ctx); err != nil {
		return err
	}
	fmt.Fprintf(d.out, "  hub         process %d, UDP port %d; relays to the broker and to nothing else\n", d.hub.pid(), d.hubPort)
	began, taken, err := d.firstJob(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(d.out, "  satellite   process %d; first job taken %.2f s after its start\n", d.satellite.pid(), taken.Sub(began).Seconds())
	return nil
}

// firstJob puts a job into the queue before there is a satellite, then starts it.
func (d *demonstration) firstJob(ctx context.Context) (began, taken time.Time, err error) {
	type answer struct {
		code int
		out  string
	}
	answers := make(chan answer, 1)
	waiting, cancel := context.WithTimeout(ctx, demoPatience)
	defer cancel()
	go func() { // ends with waiting
		code, out := d.satctl(waiting, "", "submit", "--action", "tcp.connect", "--target", d.net.lan, "--port", d.eq.web, "--json")
		answers <- answer{code, out}
	}()
	if err := pause(waiting, demoSettleTime/4); err != nil {
		return began, taken, err
	}
	began = time.Now()
	if err := d.startSatellite(ctx); err != nil {
		return began, taken, err
	}
	first := <-answers
	var result jobs.Result
	if first.code != exitOK || json.Unmarshal([]byte(first.out), &result) != nil {
		return began, taken, fmt.Errorf("the first job was not answered: %s", strings.TrimSpace(first.out))
	}
	if !strings.Contains(result.Transport, "wireguard") {
		return began, taken, fmt.Errorf("the first job came by %q, not through the tunnel", result.Transport)
	}
	return began, result.ReceivedAt.Time, nil
}

// refusals tries the broker from the satellite's network, at each address of
// this machine, with the right password.
func (d *demonstration) refusals(ctx context.Context) error {
	for _, address := range []string{"127.0.0.1", d.net.wan, d.net.lan} {
		dsn := strings.Replace(d.rabbit.DSN("/"), "127.0.0.1", address, 1)
		cmd := d.net.inside(ctx, d.self, "submit", "--action", "icmp.ping", "--target", d.net.lan)
		cmd.Env = []string{"US_AMQP_DSN=" + dsn, "USM_POLLER_SATELLITE_ID=" + demoSatellite}
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil {
			return err
		}
		d.indent(string(out))
		if code := cmd.ProcessState.ExitCode(); code != exitBroker {
			return fmt.Errorf("at %s: exit code %d, want %d: the broker could be reached", address, code, exitBroker)
		}
	}
	return nil
}

func (d *demonstration) figures(ctx context.Context) error {
	if err := d.memory(ctx, "at rest"); err != nil {
		return err
	}
	var lines strings.Builder
	for i := range demoManyJobs {
		fmt.Fprintf(&lines, `{"job_id":"many-%d"}`+"\n", i)
	}
	begin := time.Now()
	code, out := d.satctl(ctx, lines.String(), "submit", "--action", "snmp.get", "--target", d.net.lan, "--port", strconv.Itoa(d.eq.snmp.Port),
		"--community", lab.Community, "--params", "oids=1.3.6.1.2.1.1.3.0", "--json", "-")
	took := time.Since(begin)
	if answered := strings.Count(out, `"status":"ok"`); code != exitOK || answered != demoManyJobs {
		return fmt.Errorf("%d of %d jobs were ok", answered, demoManyJobs)
	}
	fmt.Fprintf(d.out, "  %d snmp.get jobs at one device in %.2f s, all ok\n", demoManyJobs, took.Seconds())
	return d.memory(ctx, "after them")
}

func (d *demonstration) memory(ctx context.Context, when string) error {
	if err := pause(ctx, demoSettleTime); err != nil {
		return err
	}
	satellite, err := d.satellite.memory()
	if err != nil {
		return err
	}
	hub, err := d.hub.memory()
	if err != nil {
		return err
	}
	const megabyte = 1 << 20
	fmt.Fprintf(d.out, "  memory %s: satellite %.1f MB, hub %.1f MB, the tunnel included\n", when, float64(satellite)/megabyte, float64(hub)/megabyte)
	return nil
}

func (d *demonstration) playOn(ctx context.Context) {
	if err := os.WriteFile(d.path("dsn"), []byte(d.rabbit.DSN("/")), 0o600); err != nil {
		fmt.Fprintln(d.out, err)
	}
	enter := ""
	if !realRoot() {
		enter = fmt.Sprintf("  nsenter --target %d --user --net --mount --preserve-credentials   # first: to where the demo is\n", os.Getpid())
	}
	fmt.Fprintf(d.out, `
== Play on, in another terminal; Ctrl-C here ends it
%[13]s  export US_AMQP_DSN_FILE=%[1]s/dsn USM_RESULTS_EXCHANGE=%[2]s USM_POLLER_SATELLITE_ID=%[3]s
  %[4]s submit --action icmp.ping --target %[5]s
  %[4]s submit --action snmp.walk --target %[5]s --port %[6]d --community %[7]s --params root=1.3.6.1.2.1.1
  %[4]s submit --action tcp.connect --target %[5]s --port %[8]s
  %[4]s submit --help
  ip netns exec %[9]s ip address        # the satellite's network
  tail -f %[1]s/satellite.log %[1]s/hub.log
  the broker's page: %[10]s   user %[11]s, password %[12]s
`, d.dir, defaultResultsExchange, demoSatellite, d.self, d.net.lan, d.eq.snmp.Port, lab.Community, d.eq.web,
		d.net.name, d.rabbit.ManagementURL(), lab.RabbitUser, lab.RabbitPassword, enter)
	<-ctx.Done()
}

// logs prints the end of what the processes said, when something failed.
func (d *demonstration) logs() {
	for _, process := range []*child{d.hub, d.satellite} {
		if process != nil {
			fmt.Fprintf(d.out, "\n-- the end of %s\n%s\n", process.log, process.tail())
		}
	}
}

// pause waits, unless ctx ends.
func pause(ctx context.Context, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
