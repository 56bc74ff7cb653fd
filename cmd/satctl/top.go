package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"usm-satellite/broker"
	"usm-satellite/jobs"
)

const topHelp = `Usage:
  satctl top [options]

Shows the satellites live, by the heartbeats that they send every 15 seconds
to the exchange usm_poller.status (satctl enroll makes it and lets them).

Examples:
  satctl top
  satctl top --once             one table after 16 seconds, for scripts
  satctl top --json             every hello, heartbeat and goodbye as it comes

Options:
  --once                     collect for one heartbeat, print, end
  --for TIME                 how long --once collects (default 16s)
  --json                     JSON lines

` + connectionHelp + `
Exit codes:
  0  stopped, or with --once: every satellite that was seen is healthy
  1  with --once: one is not healthy, or there was none
  2  the command line or a setting is wrong
  3  the broker could not be used, or has no such exchange
`

const (
	topRedraw = time.Second
	lateAfter = 40 * time.Second // two heartbeats and a little
	goneAfter = 10 * time.Minute // and then forgotten
)

type topOptions struct {
	connection
	once, json bool
	collect    time.Duration
}

func (o *topOptions) register(flags *flag.FlagSet, getenv func(string) string) {
	o.connection.register(flags, getenv)
	flags.BoolVar(&o.once, "once", false, "")
	flags.BoolVar(&o.json, "json", false, "")
	flags.DurationVar(&o.collect, "for", 16*time.Second, "")
}

func top(ctx context.Context, args []string, sys system) error {
	o := &topOptions{}
	flags := newFlags("top")
	o.register(flags, sys.Getenv)
	if err := parse(flags, args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return usagef("does not know what to do with %q", flags.Arg(0))
	}
	options, err := o.coreOptions(sys.Getenv)
	if err != nil {
		return err
	}
	if o.once {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.collect)
		defer cancel()
	}
	f := fleet{}
	if err := f.follow(ctx, o, options, sys.Stdout); err != nil {
		return brokerError(err)
	}
	if !o.once {
		return nil
	}
	if !o.json {
		f.print(sys.Stdout, time.Now())
	}
	return f.verdict(time.Now())
}

// sighting is what a process of a satellite said of itself last.
type sighting struct {
	SatelliteID string        `json:"satellite_id"`
	Replica     string        `json:"replica"`
	Version     string        `json:"version"`
	UptimeS     int64         `json:"uptime_s"`
	Healthy     bool          `json:"healthy"`
	Transport   string        `json:"transport"`
	InHand      int           `json:"in_hand"`
	Concurrency int           `json:"concurrency"`
	Spooled     int           `json:"spooled"`
	Jobs        jobs.Snapshot `json:"jobs"`
	Warnings    []string      `json:"warnings"`

	kind string
	at   time.Time
}

// fleet has the processes that were seen, by satellite and process.
type fleet map[string]sighting

// follow collects, and draws the table again and again where a person looks on.
func (f fleet) follow(ctx context.Context, o *topOptions, options broker.CoreOptions, out io.Writer) error {
	following, stop := context.WithCancel(ctx)
	defer stop()
	news, ended := make(chan broker.CoreNews), make(chan error, 1)
	go func() { // ends with following
		ended <- broker.FollowStatus(following, options, func(n broker.CoreNews) {
			select {
			case news <- n:
			case <-following.Done():
			}
		})
	}()
	ticker := time.NewTicker(topRedraw)
	defer ticker.Stop()
	for {
		select {
		case n := <-news:
			f.note(n, time.Now())
			if o.json {
				fmt.Fprintf(out, "%s\n", newsLine(n))
			}
		case now := <-ticker.C:
			if !o.json && !o.once {
				fmt.Fprint(out, "\x1b[H\x1b[2J") // a cleared screen, as top does
				f.print(out, now)
			}
		case err := <-ended:
			return err
		}
	}
}

func newsLine(n broker.CoreNews) []byte {
	var body bytes.Buffer
	if json.Compact(&body, n.Body) != nil {
		body.Reset()
		body.WriteString("null")
	}
	return mustJSON(map[string]any{"kind": n.Kind, "key": n.Key, "status": json.RawMessage(body.Bytes())})
}

func (f fleet) note(n broker.CoreNews, now time.Time) {
	var s sighting
	if json.Unmarshal(n.Body, &s) != nil {
		return
	}
	s.kind, s.at = n.Kind, now
	f[s.SatelliteID+"\x00"+s.Replica] = s
	for key, old := range f {
		if now.Sub(old.at) > goneAfter {
			delete(f, key)
		}
	}
}

func (s sighting) state(now time.Time) string {
	switch {
	case s.kind == "goodbye":
		return "stopped"
	case now.Sub(s.at) > lateAfter:
		return "silent " + now.Sub(s.at).Round(time.Second).String()
	case !s.Healthy:
		return "not healthy"
	default:
		return "ok"
	}
}

func (f fleet) print(out io.Writer, now time.Time) {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SATELLITE\tPROCESS\tSTATE\tTRANSPORT\tUP\tIN HAND\tANSWERED\tNOT OK\tKEPT\tVERSION")
	for _, key := range slices.Sorted(maps.Keys(f)) {
		s := f[key]
		var all uint64
		for _, n := range s.Jobs.Results {
			all += n
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%d/%d\t%d\t%d\t%d\t%s\n",
			oneLine(s.SatelliteID), oneLine(s.Replica), s.state(now), oneLine(s.Transport), time.Duration(s.UptimeS)*time.Second,
			s.InHand, s.Concurrency, all, all-s.Jobs.Results[jobs.StatusOK], s.Spooled, oneLine(s.Version))
		for _, warning := range s.Warnings {
			fmt.Fprintf(table, "\twarning: %s\n", oneLine(warning))
		}
	}
	_ = table.Flush()
	fmt.Fprintf(out, "%d seen, %s\n", len(f), now.UTC().Format(time.RFC3339))
}

// verdict is for --once.
func (f fleet) verdict(now time.Time) error {
	if len(f) == 0 {
		return errors.New("no satellite was heard of")
	}
	var bad []string
	for _, key := range slices.Sorted(maps.Keys(f)) {
		if s := f[key]; s.state(now) != "ok" {
			bad = append(bad, oneLine(s.SatelliteID))
		}
	}
	if len(bad) > 0 {
		return fmt.Errorf("not ok: satellite %s", strings.Join(slices.Compact(bad), ", "))
	}
	return nil
}
