package snmp

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/gosnmp/gosnmp"

	"usm-satellite/jobs"
)

const defaultRepetitions = 25

type walkParams struct {
	Root           string   `json:"root"`
	Roots          []string `json:"roots"`
	MaxRepetitions int      `json:"max_repetitions"`
	After          string   `json:"after"` // go on behind this object: the last_oid of a partial walk
}

func (p *walkParams) check() *jobs.Fault {
	if p.Root != "" {
		p.Roots = append([]string{p.Root}, p.Roots...)
		p.Root = ""
	}
	if fault := checkOIDs("params.root", p.Roots); fault != nil {
		return fault
	}
	if p.After != "" {
		after, fault := checkOID("params.after", p.After)
		if fault != nil {
			return fault
		}
		p.After = after
	}
	return checkRepetitions(p.MaxRepetitions)
}

func checkRepetitions(n int) *jobs.Fault {
	if n < 0 || n > 1000 {
		return jobs.Invalid("params.max_repetitions", "must be 1 to 1000")
	}
	return nil
}

type walkData struct {
	Varbinds []Varbind `json:"varbinds"`
	LastOID  string    `json:"last_oid,omitempty"` // of a partial walk: it may be gone on with from here
}

func (d *driver) walk(ctx context.Context, job *jobs.Job) (jobs.Output, error) {
	var p walkParams
	_ = jobs.DecodeParams(job, &p) // checked before
	_ = p.check()
	var out jobs.Output
	err := d.each(ctx, job, func(s *session) error {
		w := newWalker(s, job, p.MaxRepetitions)
		var err error
		for _, root := range p.Roots {
			if err = w.subtree(root, p.After); err != nil {
				break
			}
		}
		out = w.output(err)
		out.Data = walkData{Varbinds: w.vars, LastOID: w.lastIf(out.Partial)}
		return err
	})
	return out, err
}

// walker collects the objects below some roots within the limits of a job.
type walker struct {
	s           *session
	repetitions uint32
	maxRows     int
	maxBytes    int

	vars  []Varbind
	bytes int
	pdus  int
	last  string
	cut   bool
	warn  []string
}

func newWalker(s *session, job *jobs.Job, repetitions int) *walker {
	if repetitions == 0 {
		repetitions = job.Limits.MaxRepetitions
	}
	if repetitions == 0 {
		repetitions = defaultRepetitions
	}
	return &walker{
		s: s, repetitions: uint32(min(repetitions, 1000)), maxRows: job.Limits.MaxRows,
		maxBytes: min(job.Limits.ResultBytes(), maxWalkBytes),
	}
}

// output says how far the walk came.
func (w *walker) output(err error) jobs.Output {
	return jobs.Output{
		Partial: w.cut || err != nil && len(w.vars) > 0, Truncated: w.cut,
		Learned: w.s.report(), Warnings: w.warn,
	}
}

func (w *walker) lastIf(partial bool) string {
	if partial {
		return w.last
	}
	return ""
}

// subtree collects what is below root, or behind after.
func (w *walker) subtree(root, after string) error {
	from := root
	if after != "" && below(after, root) {
		from = after
	}
	for !w.cut {
		if w.pdus++; w.pdus > maxPDUs {
			w.cut = true
			w.warn = append(w.warn, "the device goes on without end; the walk was cut after "+strconv.Itoa(maxPDUs)+" requests")
			return nil
		}
		pdus, err := w.next(from)
		if err != nil {
			return err
		}
		done, next, err := w.take(root, from, pdus)
		if err != nil || done {
			return err
		}
		from = next
	}
	return nil
}

// take keeps what belongs to the subtree. Equipment that answers with objects
// which do not increase would be walked in circles for ever: it is left there.
func (w *walker) take(root, from string, pdus []gosnmp.SnmpPDU) (done bool, next string, err error) {
	next = from
	for _, pdu := range pdus {
		oid := strings.TrimPrefix(pdu.Name, ".")
		switch {
		case pdu.Type == gosnmp.EndOfMibView, pdu.Type == gosnmp.NoSuchObject, pdu.Type == gosnmp.NoSuchInstance, !below(oid, root):
			return true, next, nil
		case compareOIDs(oid, next) <= 0:
			w.warn = append(w.warn, "the device's objects do not increase at "+oid+"; the walk ends there")
			return false, next, jobs.Faultf(jobs.CodeProtocolError, jobs.StageParse, "the device's objects do not increase: %s follows %s", oid, next)
		}
		v := varbind(pdu)
		w.bytes += len(oid) + 60
		if v.Hex != nil {
			w.bytes += 3 * len(*v.Hex) / 2
		}
		if w.bytes > w.maxBytes || w.maxRows > 0 && len(w.vars) >= w.maxRows {
			w.cut = true
			return true, next, nil
		}
		w.vars = append(w.vars, v)
		w.last, next = oid, oid
	}
	return len(pdus) == 0, next, nil
}

// next asks for what follows. A device that does not answer a GetBulk is asked
// for less, at last by GetNext; what worked is remembered.
func (w *walker) next(from string) ([]gosnmp.SnmpPDU, error) {
	for {
		packet, err := w.request(from)
		shrinkable := w.s.Version != gosnmp.Version1 && !w.s.quirks.NoBulk && w.pastDiscovery()
		switch {
		case err == nil && packet.Error == gosnmp.NoSuchName: // the end, in version 1
			return nil, nil
		case err == nil && packet.Error == gosnmp.TooBig && shrinkable, err == nil && packet.Error == gosnmp.GenErr && shrinkable, silent(err) && shrinkable && w.s.ctx.Err() == nil:
			w.shrink()
			continue
		case err != nil:
			return nil, w.s.fault(err)
		case packet.Error != gosnmp.NoError:
			return nil, statusFault(packet)
		}
		return packet.Variables, nil
	}
}

// pastDiscovery: silence before anything was ever answered means a dead device
// or a wrong community, which no smaller request mends, unless the device is
// known to answer.
func (w *walker) pastDiscovery() bool {
	if len(w.vars) > 0 || w.s.quirks != (quirks{}) {
		return true
	}
	_, err := w.s.GetNext([]string{"1.3"})
	return err == nil
}

func silent(err error) bool {
	return errors.Is(err, gosnmp.ErrMaxRetriesExceeded) || err != nil && strings.Contains(err.Error(), "request timeout")
}

func (w *walker) request(from string) (*gosnmp.SnmpPacket, error) {
	if w.s.Version == gosnmp.Version1 || w.s.quirks.NoBulk {
		return w.s.GetNext([]string{from})
	}
	n := w.repetitions
	if known := w.s.quirks.MaxRepetitions; known > 0 {
		n = min(n, known)
	}
	return w.s.GetBulk([]string{from}, 0, n)
}

func (w *walker) shrink() {
	n := w.repetitions
	if known := w.s.quirks.MaxRepetitions; known > 0 {
		n = min(n, known)
	}
	if n <= 1 {
		w.s.quirks.NoBulk = true
	} else {
		w.s.quirks.MaxRepetitions = max(1, n/3)
	}
	w.s.known.put(w.s.device, w.s.quirks)
}

// below says whether oid is in the subtree of root.
func below(oid, root string) bool {
	return oid == root || strings.HasPrefix(oid, root) && oid[len(root)] == '.'
}

// compareOIDs orders OIDs by their numbers.
func compareOIDs(a, b string) int {
	for a != "" && b != "" {
		var x, y string
		x, a, _ = strings.Cut(a, ".")
		y, b, _ = strings.Cut(b, ".")
		if len(x) != len(y) {
			return len(x) - len(y)
		}
		if c := strings.Compare(x, y); c != 0 {
			return c
		}
	}
	return len(a) - len(b)
}

type tableParams struct {
	Columns        []string `json:"columns"`
	MaxRepetitions int      `json:"max_repetitions"`
}

func (p *tableParams) check() *jobs.Fault {
	if fault := checkOIDs("params.columns", p.Columns); fault != nil {
		return fault
	}
	return checkRepetitions(p.MaxRepetitions)
}

// Row is a row of a conceptual table (RFC 2578, 7.1.12): what the columns have
// at one index.
type Row struct {
	Index  string             `json:"index"`
	Values map[string]Varbind `json:"values"` // by column
}

func (d *driver) table(ctx context.Context, job *jobs.Job) (jobs.Output, error) {
	var p tableParams
	_ = jobs.DecodeParams(job, &p) // checked before
	_ = p.check()
	var out jobs.Output
	err := d.each(ctx, job, func(s *session) error {
		t := tableBuilder{rows: make(map[string]*Row)}
		w := newWalker(s, job, p.MaxRepetitions)
		limit := w.maxRows
		w.maxRows = 0 // counts objects, not rows
		var err error
		for _, column := range p.Columns {
			w.vars, w.last = nil, ""
			err = w.subtree(column, "")
			t.add(column, w.vars)
			if err != nil || w.cut {
				break
			}
		}
		rows := t.sorted()
		out = w.output(err)
		out.Partial = w.cut || err != nil && len(rows) > 0
		if limit > 0 && len(rows) > limit {
			rows, out.Partial, out.Truncated = rows[:limit], true, true
		}
		out.Data = map[string]any{"rows": rows}
		return err
	})
	return out, err
}
