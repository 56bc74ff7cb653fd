package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"usm-satellite/broker"
	"usm-satellite/drivers/icmp"
	"usm-satellite/jobs"
)

// finding is one step of the doctor.
type finding struct {
	Step    string `json:"step"`
	Result  string `json:"result"` // ok, failed, warning, skipped
	TookMS  int64  `json:"took_ms"`
	Message string `json:"message"` // what is, or what is wrong and the one thing to do
}

// doctor goes the way of a satellite step by step, and says what stops it.
type doctor struct {
	settings settings
	findings []finding
	failed   bool
}

func runCheck(ctx context.Context, a app) error {
	given, err := a.flags("--json")
	if err != nil {
		return err
	}
	d := &doctor{}
	d.examine(ctx, a)
	if given["--json"] {
		if err := json.NewEncoder(a.stdout).Encode(d.findings); err != nil {
			return err
		}
	} else {
		for _, f := range d.findings {
			_, _ = fmt.Fprintf(a.stdout, "%-8s %-12s %6d ms  %s\n", f.Result, f.Step, f.TookMS, f.Message)
		}
	}
	if d.failed {
		return &exitError{code: exitFailed}
	}
	return nil
}

// step runs one check, unless one that it stands on has failed.
func (d *doctor) step(name string, skip bool, check func() (string, error)) bool {
	if skip {
		d.findings = append(d.findings, finding{Step: name, Result: "skipped", Message: "an earlier step failed"})
		return false
	}
	began := time.Now()
	message, err := check()
	f := finding{Step: name, Result: "ok", TookMS: time.Since(began).Milliseconds(), Message: message}
	var warn *warning
	switch {
	case errors.As(err, &warn):
		f.Result, f.Message = "warning", warn.message
	case err != nil:
		f.Result, f.Message = "failed", err.Error()
		d.failed = true
	}
	d.findings = append(d.findings, f)
	return f.Result != "failed"
}

// warning is a finding that does not stop the service.
type warning struct{ message string }

func (w *warning) Error() string { return w.message }

func (d *doctor) examine(ctx context.Context, a app) {
	ok := d.step("settings", false, func() (string, error) {
		s, warnings, err := readSettings(a.env)
		d.settings = s
		if err == nil && len(warnings) > 0 {
			err = &warning{strings.Join(warnings, "; ")}
		}
		return "can be read", err
	})
	d.step("state", !ok, d.state)
	d.step("ping", !ok, func() (string, error) { return d.ping(ctx) })
	d.step("clock", !ok, d.clock)
	if ok && d.settings.hasTunnel() {
		if running, err := ask[status](ctx, "satellite", d.settings.StateDir, "/status"); err == nil {
			d.running(running[0])
			return
		}
	}
	var t *transport
	quiet := slog.New(slog.DiscardHandler)
	opened := d.step("transport", !ok, func() (string, error) {
		var err error
		s := d.settings
		s.StateDir = "" // no lock and no memory: a running satellite has them
		t, err = openTransport(ctx, s, a.env, quiet)
		if err != nil {
			return "", err
		}
		return "configured: " + t.routes[0].Name, nil
	})
	if t != nil {
		defer t.close()
	}
	reached := opened
	if opened && t.tunnel != nil {
		var found []netip.AddrPort
		named := d.step("endpoint", false, func() (message string, err error) {
			message, found, err = d.endpoint(ctx)
			return message, err
		})
		out := d.step("udp", !named, func() (string, error) { return udpLeaves(ctx, found) })
		reached = d.step("tunnel", !named || !out, func() (string, error) { return d.tunnel(ctx, t) })
	}
	d.broker(ctx, t, !opened || !reached)
}

// running goes by what the service of this machine says: a second tunnel with
// its key would take the hub's answers away from it.
func (d *doctor) running(s status) {
	d.step("tunnel", false, func() (string, error) {
		switch {
		case s.Tunnel == nil:
			return "the running service uses none", nil
		case s.Tunnel.LastHandshake == nil:
			return "", silentHub(s.Tunnel.Endpoint)
		default:
			return fmt.Sprintf("the running service has one with %s, last handshake %s", s.Tunnel.Endpoint, s.Tunnel.LastHandshake.Format(time.RFC3339)), nil
		}
	})
	d.step("broker", false, func() (string, error) {
		if s.Connected {
			return "the running service is " + s.words(), nil
		}
		return "", usageError("the running service is %s", s.words())
	})
}

// silentHub: silence has many causes that look the same from here; all are
// named.
func silentHub(endpoint string) error {
	return usageError("no answer from the hub at %s: UDP is blocked on the way, or the hub is down, or the keys do not fit (this satellite's key is not among the hub's peers, USM_WG_PEER_PUBLIC_KEY or the preshared key is wrong), or the clock of this machine is behind; WireGuard meets all of these with silence. Look at `satellite peers` beside the hub, which counts handshakes that fit no peer, and set USM_FALLBACK_DSN where UDP cannot pass", endpoint)
}

func (d *doctor) state() (string, error) {
	dir := d.settings.StateDir
	probe := filepath.Join(dir, fmt.Sprintf("check-%d", os.Getpid()))
	if err := os.MkdirAll(dir, 0o700); err == nil {
		if err := os.WriteFile(probe, []byte("x"), 0o600); err == nil {
			_ = os.Remove(probe)
			return dir + " can be written to", nil
		}
	}
	return "", &warning{"the state directory " + dir + " cannot be written to by this user: jobs that change equipment will be refused; make it writable, or set USM_STATE_DIR"}
}

func (d *doctor) ping(ctx context.Context) (string, error) {
	pinger := icmp.New(&jobs.Network{Policy: &jobs.Policy{Targets: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}})
	defer pinger.Close()
	job := &jobs.Job{ID: "check", Action: "icmp.ping", Target: jobs.Target{Address: "127.0.0.1"}, Params: json.RawMessage(`{"count":1}`)}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := pinger.Actions()["icmp.ping"].Driver.Run(ctx, job); err != nil {
		var fault *jobs.Fault
		if errors.As(err, &fault) {
			return "", &warning{fault.Message}
		}
		return "", &warning{"this machine cannot be pinged"}
	}
	return "pings can be sent", nil
}

// endpoint looks the hub's names up.
func (d *doctor) endpoint(ctx context.Context) (string, []netip.AddrPort, error) {
	configs, err := d.settings.tunnelConfigs()
	if err != nil {
		return "", nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var words []string
	var found []netip.AddrPort
	for _, endpoint := range configs[0].Peer.Endpoints {
		host, port, err := splitHostPort("USM_WG_ENDPOINT", endpoint)
		if err != nil {
			return "", nil, err
		}
		addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil || len(addrs) == 0 {
			return "", nil, usageError("the hub's name %q does not resolve: correct USM_WG_ENDPOINT, or the DNS of this machine", host)
		}
		words = append(words, fmt.Sprintf("%s is %s", host, addrs[0].Unmap()))
		found = append(found, netip.AddrPortFrom(addrs[0].Unmap(), uint16(port))) //nolint:gosec // splitHostPort bounds it
	}
	return strings.Join(words, ", "), found, nil
}

const tunnelPatience = 12 * time.Second

// tunnel waits for a handshake and for the broker's port inside.
func (d *doctor) tunnel(ctx context.Context, t *transport) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, tunnelPatience)
	defer cancel()
	err := t.routes[0].Probe(ctx)
	st := t.tunnel.Stats()
	switch {
	case err == nil:
		return fmt.Sprintf("handshake with %s, and the broker's port answers inside", st.Endpoint), nil
	case st.LastHandshake.IsZero():
		return "", silentHub(st.Endpoint.String())
	case strings.Contains(err.Error(), "refused"), strings.Contains(err.Error(), "reset"):
		return "", usageError("the tunnel is up, but the broker's port inside refuses: correct the port (USM_WG_BROKER or the DSN's; the hub's USM_HUB_PORT)")
	default:
		return "", usageError("the tunnel is up, but nothing answers at the broker's address inside: correct the address (USM_WG_BROKER or the DSN's host; the hub's USM_HUB_ADDRESS), or this satellite's own (USM_WG_ADDRESS must be the one in the hub's peers file)")
	}
}

// broker goes through login, queue and rights on the first route.
func (d *doctor) broker(ctx context.Context, t *transport, skip bool) {
	if t == nil {
		skip = true
	}
	var examined []broker.Finding
	if !skip {
		s := d.settings
		examined = broker.Examine(ctx, broker.Options{
			Routes: t.routes, Queue: s.queue(), ResultsExchange: s.ResultsExchange, ResultsQueue: s.ResultsQueue,
			SatelliteID: s.SatelliteID, Name: processName(s) + "-check", Version: version,
		})
	}
	for _, name := range broker.ExamineSteps() {
		found := false
		for _, f := range examined {
			if f.Step != name {
				continue
			}
			found = true
			d.step(name, false, func() (string, error) {
				switch {
				case f.Err == nil:
					return f.Message, nil
				case f.Warning:
					return "", &warning{f.Err.Error()}
				default:
					return "", f.Err
				}
			})
			d.findings[len(d.findings)-1].TookMS = f.Took.Milliseconds()
		}
		if !found {
			d.step(name, true, nil)
		}
	}
}
