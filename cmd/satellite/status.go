package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"

	"usm-satellite/jobs"
)

// status is what a satellite says of itself: in heartbeats, to `satellite
// status` and `satellite health`.
type status struct {
	SatelliteID string        `json:"satellite_id"`
	Replica     string        `json:"replica"`
	Version     string        `json:"version"`
	Time        jobs.Time     `json:"time"`
	UptimeS     int64         `json:"uptime_s"`
	Healthy     bool          `json:"healthy"`
	Connected   bool          `json:"connected"`
	Transport   string        `json:"transport"`
	Since       jobs.Time     `json:"since"` // of connected, or of not
	Blocked     bool          `json:"blocked,omitempty"`
	Problem     string        `json:"problem,omitempty"`
	Attempts    int           `json:"attempts,omitempty"`
	Connections int           `json:"connections"`
	InHand      int           `json:"in_hand"`
	Concurrency int           `json:"concurrency"`
	OldestRunS  int64         `json:"oldest_run_s"`
	Spooled     int           `json:"spooled"`
	Unroutable  uint64        `json:"unroutable"`
	Writes      string        `json:"writes"` // "allowed", or why not
	Jobs        jobs.Snapshot `json:"jobs"`
	Tunnel      *tunnelStatus `json:"tunnel,omitempty"`
	Warnings    []string      `json:"warnings,omitempty"`
}

type tunnelStatus struct {
	Endpoint      string     `json:"endpoint"`
	LastHandshake *jobs.Time `json:"last_handshake,omitempty"`
	RxBytes       uint64     `json:"rx_bytes"`
	TxBytes       uint64     `json:"tx_bytes"`
	MTU           int        `json:"mtu"`
}

// healthyWithout is how long a satellite may be without a broker before its
// container counts as unhealthy.
const healthyWithout = 60 * time.Second

func (sat *satellite) status() status {
	st, now := sat.session.State(), time.Now()
	out := status{
		SatelliteID: sat.SatelliteID, Replica: sat.name, Version: version, Time: jobs.Time{Time: now},
		UptimeS: int64(now.Sub(sat.started).Seconds()), Connected: st.Connected, Transport: st.Transport,
		Since: jobs.Time{Time: st.Since}, Blocked: st.Blocked, Problem: st.Problem, Attempts: st.Attempts,
		Connections: st.Connections, InHand: sat.dispatcher.InHand(), Concurrency: sat.Concurrency,
		OldestRunS: int64(sat.dispatcher.OldestRun().Seconds()), Spooled: sat.store.Len(), Unroutable: st.Unroutable,
		Writes: sat.writes(), Jobs: sat.dispatcher.Counts(),
	}
	if st.Since.IsZero() {
		out.Since = jobs.Time{Time: sat.started}
	}
	out.Healthy = st.Connected || now.Sub(out.Since.Time) < healthyWithout && st.Connections > 0
	if t := sat.transport.tunnel; t != nil {
		ts := t.Stats()
		out.Tunnel = &tunnelStatus{Endpoint: ts.Endpoint.String(), RxBytes: ts.RxBytes, TxBytes: ts.TxBytes, MTU: ts.MTU}
		if !ts.LastHandshake.IsZero() {
			out.Tunnel.LastHandshake = &jobs.Time{Time: ts.LastHandshake}
		}
	}
	return out
}

func (sat *satellite) writes() string {
	switch {
	case !sat.AllowWrites:
		return "refused: USM_ALLOW_WRITES is false"
	case sat.store.journal == nil:
		return "refused: " + sat.store.problem
	default:
		return "allowed"
	}
}

// socketDirs are where the status socket of a process may be: in its state
// directory, else where the system lets it.
func socketDirs(stateDir string) []string {
	return []string{stateDir, "/run/satellite", filepath.Join(os.TempDir(), fmt.Sprintf("satellite-%d", os.Getuid()))}
}

const socketSuffix = ".sock"

// serveStatus answers on a unix socket that only this user may use.
func (sat *satellite) serveStatus(ctx context.Context) (stop func()) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(sat.status())
	})
	return serveSocket(ctx, "satellite", sat.StateDir, mux, func(err error) {
		sat.log.WarnContext(ctx, "no status socket: `satellite health` and `satellite status` will find nothing", "cause", err.Error())
	})
}

func serveSocket(ctx context.Context, kind, stateDir string, handler http.Handler, failed func(error)) (stop func()) {
	ln, err := listenSocket(ctx, kind, stateDir)
	if err != nil {
		failed(err)
		return func() {}
	}
	end := serveHTTP(ln, handler)
	return func() {
		end()
		_ = os.Remove(ln.Addr().String())
	}
}

// serveHTTP answers on a listener until stop is called, which closes it.
func serveHTTP(ln net.Listener, handler http.Handler) (stop func()) {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	done := make(chan struct{})
	go func() { // ends with stop
		defer close(done)
		_ = server.Serve(ln)
	}()
	return func() {
		_ = server.Close()
		<-done
	}
}

func listenSocket(ctx context.Context, kind, stateDir string) (net.Listener, error) {
	var last error
	for _, dir := range socketDirs(stateDir) {
		if dir == "" {
			continue
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			last = err
			continue
		}
		removeDeadSockets(ctx, dir, kind)
		path := filepath.Join(dir, fmt.Sprintf("%s-%d%s", kind, os.Getpid(), socketSuffix))
		_ = os.Remove(path)
		ln, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
		if err == nil {
			return ln, os.Chmod(path, 0o600)
		}
		last = err
	}
	return nil, last
}

// removeDeadSockets removes what killed processes left. A young socket is left
// alone: its process may be about to listen.
func removeDeadSockets(ctx context.Context, dir, kind string) {
	sockets, _ := filepath.Glob(filepath.Join(dir, kind+"-*"+socketSuffix))
	for _, socket := range sockets {
		info, err := os.Lstat(socket)
		if err != nil || time.Since(info.ModTime()) < time.Minute {
			continue
		}
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", socket)
		switch {
		case err == nil:
			_ = conn.Close()
		case errors.Is(err, syscall.ECONNREFUSED):
			_ = os.Remove(socket)
		}
	}
}

var errNobody = errors.New("no running satellite was found on this machine (for this user); is the service started?")

// ask gets the status of every process of this kind that uses this state
// directory, or, where there is none, of those that use none.
func ask[T any](ctx context.Context, kind, stateDir, path string) ([]T, error) {
	var all []T
	for _, dir := range socketDirs(stateDir) {
		sockets, _ := filepath.Glob(filepath.Join(dir, kind+"-*"+socketSuffix))
		sort.Strings(sockets)
		for _, socket := range sockets {
			if one, err := askOne[T](ctx, socket, path); err == nil {
				all = append(all, one)
			}
		}
		if len(all) > 0 {
			return all, nil
		}
	}
	return nil, errNobody
}

func askOne[T any](ctx context.Context, socket, path string) (answer T, err error) {
	client := http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://local"+path, http.NoBody)
	if err != nil {
		return answer, err
	}
	response, err := client.Do(request)
	if err != nil {
		return answer, err
	}
	defer func() { _ = response.Body.Close() }()
	return answer, json.NewDecoder(response.Body).Decode(&answer)
}

// runHealth is the container's HEALTHCHECK: every process of this container
// must be healthy; the first that is not says why.
func runHealth(ctx context.Context, a app) error {
	if _, err := a.flags(); err != nil {
		return err
	}
	all, err := ask[status](ctx, "satellite", a.stateDir(), "/status")
	if err != nil {
		hubs, hubErr := ask[hubStatus](ctx, "hub", a.stateDir(), "/status")
		if hubErr == nil {
			_, _ = fmt.Fprintf(a.stdout, "healthy: hub, %d peers\n", len(hubs[0].Peers))
			return nil
		}
		return err
	}
	for _, s := range all {
		if !s.Healthy {
			return &exitError{exitFailed, "not healthy: " + orElse(s.Problem, "not connected yet")}
		}
	}
	_, _ = fmt.Fprintf(a.stdout, "healthy: %s\n", all[0].words())
	return nil
}

func runStatus(ctx context.Context, a app) error {
	given, err := a.flags("--json")
	if err != nil {
		return err
	}
	all, err := ask[status](ctx, "satellite", a.stateDir(), "/status")
	if err != nil {
		return err
	}
	for _, s := range all {
		if given["--json"] {
			if err := json.NewEncoder(a.stdout).Encode(s); err != nil {
				return err
			}
			continue
		}
		_, _ = fmt.Fprintf(a.stdout, "%s (%s, up %s)\n%s", s.Replica, s.Version, time.Duration(s.UptimeS)*time.Second, s.paragraph())
	}
	return nil
}

func (a app) stateDir() string { return orElse(a.env["USM_STATE_DIR"], defaultStateDir) }

func orElse(text, other string) string {
	if text == "" {
		return other
	}
	return text
}

func (s status) words() string {
	if !s.Connected {
		return "not connected: " + orElse(s.Problem, "first attempt")
	}
	return fmt.Sprintf("connected over %s, %d of %d jobs in hand, %d results kept", s.Transport, s.InHand, s.Concurrency, s.Spooled)
}

func (s status) paragraph() string {
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "  broker:  %s\n  since:   %s\n", s.words(), s.Since.Format(time.RFC3339))
	if s.Blocked {
		b.WriteString("  alarm:   the broker asks publishers to wait (memory or disk); results are kept here\n")
	}
	if s.Tunnel != nil {
		handshake := "none yet"
		if s.Tunnel.LastHandshake != nil {
			handshake = s.Time.Sub(s.Tunnel.LastHandshake.Time).Round(time.Second).String() + " ago"
		}
		_, _ = fmt.Fprintf(&b, "  tunnel:  %s, handshake %s, MTU %d\n", s.Tunnel.Endpoint, handshake, s.Tunnel.MTU)
	}
	_, _ = fmt.Fprintf(&b, "  writes:  %s\n  jobs:    %d received, %d answered, oldest run %d s\n", s.Writes, s.Jobs.Received, s.Jobs.Published, s.OldestRunS)
	var parts []string
	for _, name := range jobs.Statuses() {
		if n := s.Jobs.Results[name]; n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", name, n))
		}
	}
	if len(parts) > 0 {
		_, _ = fmt.Fprintf(&b, "  results: %s\n", strings.Join(parts, ", "))
	}
	return b.String()
}
