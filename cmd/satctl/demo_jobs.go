package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"usm-satellite/deploy/lab"
	"usm-satellite/jobs"
)

// demoJob is a job of the demo as it is typed.
type demoJob struct {
	args []string
	want string // in what is printed
	new  bool   // an action that this build may lack
}

func (d *demonstration) jobs(ctx context.Context) error {
	list, err := d.jobList()
	if err != nil {
		return err
	}
	for _, job := range list {
		if err := d.runJob(ctx, job); err != nil {
			return err
		}
	}
	return nil
}

func (d *demonstration) jobList() ([]demoJob, error) {
	if err := d.credentials(); err != nil {
		return nil, err
	}
	port := strconv.Itoa(d.eq.snmp.Port)
	snmp := func(action string, more ...string) []string {
		return append([]string{"--action", action, "--target", d.net.lan, "--port", port}, more...)
	}
	public := []string{"--community", lab.Community}
	with := func(credentials []string, more ...string) []string { return append(credentials[:2:2], more...) }
	set := `{"varbinds":[{"oid":"1.3.6.1.2.1.1.6.0","type":"OctetString","value":"set through the tunnel"}]}`
	list := []demoJob{
		{args: []string{"--action", "icmp.ping", "--target", d.net.lan}, want: "3 sent, 3 received"},
		{args: []string{"--action", "tcp.connect", "--target", d.net.lan, "--port", d.eq.web}, want: "connected in"},
		{args: snmp("snmp.get", with(public, "--params", "oids=1.3.6.1.2.1.1.1.0", "--params", "oids=1.3.6.1.2.1.1.3.0")...), want: "TimeTicks"},
		{args: snmp("snmp.walk", with(public, "--params", "root=1.3.6.1.2.1.1")...), want: "1.3.6.1.2.1.1.6.0"},
		{args: snmp("snmp.table", with(public, "--params", "columns=1.3.6.1.2.1.2.2.1.2", "--params", "columns=1.3.6.1.2.1.2.2.1.8")...), want: "lo"},
		{args: snmp("snmp.set", "--community", lab.WriteCommunity, "--params", set), want: "set through the tunnel"},
		{args: snmp("snmp.get", "--credentials-file", d.path("v3.json"), "--params", "oids=1.3.6.1.2.1.1.6.0"), want: "set through the tunnel"},
		{args: []string{"--action", "http.request", "--target", d.net.lan, "--port", d.eq.web, "--params", "scheme=http", "--params", "path=/"}, want: "a page of the equipment", new: true},
		{args: []string{"--action", "arp.lookup", "--target", d.net.lan}, want: d.net.lan, new: true},
		{args: []string{"--action", "traceroute", "--target", d.net.lan}, want: d.net.lan, new: true},
	}
	return append(list, d.loginJobs()...), nil
}

// loginJobs are those for command lines.
func (d *demonstration) loginJobs() []demoJob {
	var list []demoJob
	if d.eq.router != "" {
		router := func(action string, more ...string) []string {
			args := []string{"--action", action, "--target", d.net.lan, "--port", d.eq.router, "--credentials-file", d.path("router.json")}
			return append(append(args, "--params", "transport=telnet", "--params", "platform=frr"), more...)
		}
		list = append(
			list,
			demoJob{args: router("cli.run", "--params", "commands=show version | include FRRouting"), want: "FRRouting", new: true},
			demoJob{args: router("cli.configure", "--params", "commands=router bgp 65001", "--params", "commands=neighbor 192.0.2.9 remote-as 65002"), want: "neighbor", new: true},
			demoJob{args: router("config.backup"), want: "router bgp 65001", new: true},
		)
	}
	if d.eq.ssh != "" {
		list = append(list, demoJob{new: true, want: "exit code 0", args: []string{
			"--action", "ssh.exec", "--target", d.net.lan, "--port", d.eq.ssh,
			"--credentials-file", d.path("server.json"), "--params", "command=uname -a",
		}})
	}
	return list
}

func (d *demonstration) runJob(ctx context.Context, job demoJob) error {
	fmt.Fprintf(d.out, "\n  $ satctl submit %s\n", shellWords(job.args))
	code, out := d.satctl(ctx, "", append([]string{"submit"}, job.args...)...)
	if job.new && strings.HasPrefix(out, string(jobs.StatusUnsupported)) {
		fmt.Fprintln(d.out, "  (this build does not have the action)")
		return nil
	}
	d.indent(out)
	switch {
	case code != exitOK:
		return fmt.Errorf("satctl submit ended with %d", code)
	case !strings.Contains(out, job.want):
		return fmt.Errorf("%q is missing in the answer", job.want)
	case !strings.Contains(out, "wireguard"):
		return fmt.Errorf("the answer does not say that it came through the tunnel")
	}
	return nil
}

func shellWords(args []string) string {
	words := make([]string, len(args))
	for i, arg := range args {
		words[i] = arg
		if strings.ContainsAny(arg, ` {}"[]*?$|`) {
			words[i] = "'" + arg + "'"
		}
	}
	return strings.Join(words, " ")
}

// hubGone ends the hub, shows that no job gets through, and starts it again.
func (d *demonstration) hubGone(ctx context.Context) error {
	ping := []string{"submit", "--action", "tcp.connect", "--target", d.net.lan, "--port", d.eq.web}
	d.hub.stop(demoStopGrace)
	code, out := d.satctl(ctx, "", append(ping, "--wait", "3s")...)
	d.indent(out)
	if code != exitJob || !strings.Contains(out, "no_answer") {
		return fmt.Errorf("a job was answered without the hub")
	}
	begin := time.Now()
	if err := d.startHub(ctx); err != nil {
		return err
	}
	code, out = d.satctl(ctx, "", append(ping, "--wait", demoPatience.String())...)
	d.indent(out)
	if code != exitOK {
		return fmt.Errorf("no job was answered after the hub came back")
	}
	fmt.Fprintf(d.out, "  answered %.1f s after the hub was started again\n", time.Since(begin).Seconds())
	return nil
}
