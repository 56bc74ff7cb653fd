package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"usm-satellite/broker"
	"usm-satellite/drivers"
	"usm-satellite/jobs"
)

// satellite is the running service: what openSatellite built, in the order in
// which close undoes it.
type satellite struct {
	settings
	log          *slog.Logger
	started      time.Time
	name         string
	store        *store
	transport    *transport
	closeDrivers func()
	dispatcher   *jobs.Dispatcher
	session      *broker.Session
}

func runSatellite(ctx context.Context, a app) error {
	if _, err := a.flags(); err != nil {
		return err
	}
	s, warnings, err := readSettings(a.env)
	if err != nil {
		return err
	}
	log := newLogger(a.stderr, s.LogLevel, s.LogFormat)
	for _, w := range warnings {
		log.Warn(w) //nolint:sloglint // made of a setting's name
	}
	limitMemory(a.env, log)
	sat, err := openSatellite(ctx, s, a.env, log)
	if err != nil {
		return err
	}
	defer sat.close()
	return sat.run(ctx)
}

func openSatellite(ctx context.Context, s settings, env map[string]string, log *slog.Logger) (_ *satellite, err error) {
	sat := &satellite{settings: s, log: log, started: time.Now(), name: processName(s)}
	defer func() {
		if err != nil {
			sat.close()
		}
	}()
	policy, err := s.policy()
	if err != nil {
		return nil, err
	}
	sat.store = openStore(s.StateDir, log)
	if sat.transport, err = openTransport(ctx, s, env, log); err != nil {
		return nil, err
	}
	policy.Deny = sat.transport.denied()
	secrets, err := openSecrets(s.SecretsDir)
	if err != nil {
		return nil, err
	}
	var registry jobs.Registry
	registry, sat.closeDrivers = drivers.All(drivers.Options{
		Network: &jobs.Network{Policy: policy}, StateDir: sat.store.dir, Logger: log, Secret: secrets.find,
	})
	sat.dispatcher = jobs.NewDispatcher(jobs.Options{
		Room:     jobs.NewRoom(debug.SetMemoryLimit(-1)),
		Registry: registry, SatelliteID: s.SatelliteID, Replica: sat.name, Policy: policy,
		Journal: sat.store.journal, RecentDir: sat.store.recentDir(), Outbox: sat.store, Concurrency: s.Concurrency, Logger: log,
		Full: sat.store.full, Kick: func() { sat.session.Kick() },
	})
	sat.session = broker.NewSession(broker.Options{
		Routes: sat.transport.routes, Queue: s.queue(), DeclareQueue: s.DeclareQueue,
		ResultsExchange: s.ResultsExchange, ResultsQueue: s.ResultsQueue, SatelliteID: s.SatelliteID,
		Name: sat.name, Version: version, Prefetch: s.Concurrency, DrainTimeout: s.DrainTimeout,
		Handler: sat.dispatcher, Spool: sat.store, Status: func() any { return sat.status() }, Control: sat.control, Logger: log,
	})
	return sat, nil
}

// processName tells the processes of one satellite apart: host and process.
func processName(s settings) string {
	host, err := os.Hostname()
	if err != nil {
		host = "satellite"
	}
	return strings.TrimSuffix("sat-"+s.SatelliteID, "-") + "@" + host + "-" + strconv.Itoa(os.Getpid())
}

func (sat *satellite) close() {
	if sat.closeDrivers != nil {
		sat.closeDrivers()
	}
	if sat.dispatcher != nil {
		sat.dispatcher.Close()
	}
	if sat.transport != nil {
		sat.transport.close()
	}
}

// run serves until ctx ends. The status socket is a comfort: the service does
// not stop for the lack of it.
func (sat *satellite) run(ctx context.Context) error {
	stopStatus := sat.serveStatus(ctx)
	defer stopStatus()
	stopSweep := sat.store.keepTidy(ctx)
	defer stopSweep()
	stopOrphans := sat.answerOrphans(ctx)
	defer stopOrphans()
	sat.log.InfoContext(ctx, "satellite starts", "version", version, "id", sat.SatelliteID, "queue", sat.queue(),
		"writes", sat.AllowWrites && sat.store.journal != nil, "state_dir", sat.store.dir)
	err := sat.session.Run(ctx)
	if errors.Is(err, broker.ErrInterrupted) {
		return &exitError{exitInterrupted, "jobs were still running when the time for the drain was over (USM_DRAIN_TIMEOUT)"}
	}
	sat.log.InfoContext(ctx, "satellite ends")
	return err
}

// orphansEvery is how often the journal is searched for writes that nobody will
// answer; less often where that takes long.
const orphansEvery = 5 * time.Second

// answerOrphans searches for them, until stop is called.
func (sat *satellite) answerOrphans(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { // ends with stop
		defer close(done)
		timer := time.NewTimer(0)
		defer timer.Stop()
		for {
			select {
			case <-timer.C:
				began := time.Now()
				sat.dispatcher.AnswerOrphans()
				timer.Reset(max(orphansEvery, 200*time.Since(began)))
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// control answers a message of the control exchange:
// {"cancel": {"job_id": "…"}}, {"cancel": {"device_id": "…"}} or {"ping": true}.
func (sat *satellite) control(ctx context.Context, request []byte) any {
	var r struct {
		Ping   bool `json:"ping"`
		Cancel *struct {
			JobID    string `json:"job_id"`
			DeviceID string `json:"device_id"`
		} `json:"cancel"`
	}
	if err := json.Unmarshal(request, &r); err != nil {
		return map[string]any{"error": "the control message is not JSON"}
	}
	if r.Cancel != nil {
		n := sat.dispatcher.Cancel(r.Cancel.JobID, r.Cancel.DeviceID)
		sat.log.InfoContext(ctx, "jobs cancelled by the core", "count", n)
		return map[string]any{"cancelled": n, "replica": sat.name}
	}
	return sat.status()
}

func newLogger(w interface{ Write([]byte) (int, error) }, level, format string) *slog.Logger {
	var l slog.Level
	_ = l.UnmarshalText([]byte(level)) // checked with the settings; "" stays info
	options := &slog.HandlerOptions{Level: l}
	if file, ok := w.(*os.File); format == "text" || format == "" && ok && isTerminal(file) {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
