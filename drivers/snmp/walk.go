package snmp

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/gosnmp/gosnmp"

	"usm-satellite/jobs"
)

const (
	defaultRepetitions = 25
	bulkRetries        = 1 // a smaller request is the better second retry
)

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
	if n < 0 || n > maxRepetitions {
		return jobs.Invalid("params.max_repetitions", "must be 1 to %d", maxRepetitions)
	}
	return nil
}

type walkData struct {
	Varbinds []Varbind `json:"varbinds"`
	LastOID  string    `json:"last_oid,omitempty"` // of a partial walk: it may be gone on with from here
}

// List returns what snmp.walk read, for drivers that build on it.
func (w walkData) List() []Varbind { return w.Varbinds }

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
		out = w.output(err, len(w.vars) > 0)
		out.Data = walkData{Varbinds: w.vars, LastOID: w.lastIf(out.Partial)}
		return err
	})
	return out, err
}

// walker collects the objects below some roots within the limits of a job.
type walker struct {
	s           *session
	repetitions uint32
	maxRows     int // objects that are kept of a subtree; 0: any number
	maxBytes    int

	frame func(oid string) int // bytes around an object in the result; nil: none

	vars   []Varbind
	seen   map[string]bool // nil as long as objects increase
	bytes  int
	pdus   int
	last   string
	cut    bool // at a limit of the job, or of ours
	warned []string
}

func newWalker(s *session, job *jobs.Job, repetitions int) *walker {
	if repetitions == 0 {
		repetitions = job.Limits.MaxRepetitions
	}
	if repetitions == 0 {
		repetitions = defaultRepetitions
	}
	return &walker{
		s: s, repetitions: uint32(max(1, min(repetitions, maxRepetitions))), maxRows: job.Limits.MaxRows,
		maxBytes: min(job.Limits.ResultBytes(), maxWalkBytes), bytes: 1 << 10, // for what is around the objects
	}
}

// output says how far the walk came.
func (w *walker) output(err error, found bool) jobs.Output {
	return jobs.Output{
		Partial: w.cut || err != nil && found, Truncated: w.cut,
		Learned: w.s.device.report(), Warnings: w.warned,
	}
}

func (w *walker) lastIf(partial bool) string {
	if partial {
		return w.last
	}
	return ""
}

// subtree collects what is below root, or behind after. A root that has
// nothing below it may be an object itself.
func (w *walker) subtree(root, after string) error {
	before := len(w.vars)
	from := root
	if after != "" && below(after, root) {
		from = after
	}
	for !w.cut {
		if w.pdus++; w.pdus > maxPDUs {
			w.cut = true
			w.warned = append(w.warned, "the device goes on without end; the walk was cut after "+strconv.Itoa(maxPDUs)+" requests")
			return nil
		}
		pdus, err := w.next(from)
		if err != nil {
			return err
		}
		held := w.bytes
		done, next, err := w.take(root, from, pdus)
		if err == nil {
			err = jobs.Take(w.s.ctx, w.bytes-held)
		}
		if err != nil {
			return err
		}
		if done {
			break
		}
		from = next
	}
	if len(w.vars) == before && from == root && !w.cut {
		return w.itself(root)
	}
	return nil
}

// itself keeps root where it is an object, as net-snmp's walk does.
func (w *walker) itself(root string) error {
	vars, err := w.s.get([]string{root})
	if err != nil || len(vars) != 1 {
		return err
	}
	switch vars[0].Type {
	case "NoSuchObject", "NoSuchInstance", "EndOfMibView":
	default:
		w.vars = append(w.vars, vars[0])
	}
	return nil
}

// take keeps what belongs to the subtree.
func (w *walker) take(root, from string, pdus []gosnmp.SnmpPDU) (done bool, next string, err error) {
	next = from
	for _, pdu := range pdus {
		oid := strings.TrimPrefix(pdu.Name, ".")
		if pdu.Type == gosnmp.EndOfMibView || pdu.Type == gosnmp.NoSuchObject || pdu.Type == gosnmp.NoSuchInstance || !below(oid, root) {
			return true, next, nil
		}
		if w.loops(oid, next) {
			return true, next, jobs.Faultf(jobs.CodeProtocolError, jobs.StageParse, "the device walks in a circle: it answers %s again behind %s", oid, next)
		}
		v := varbind(pdu)
		w.bytes += v.size()
		if w.frame != nil {
			w.bytes += w.frame(oid)
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

// loops says that a walk has been at oid before. Some equipment has its rows
// out of order, which is borne; a circle would be walked for ever.
func (w *walker) loops(oid, last string) bool {
	if w.seen == nil {
		if compareOIDs(oid, last) > 0 {
			return false
		}
		w.seen = make(map[string]bool, len(w.vars))
		for _, v := range w.vars {
			w.seen[v.OID] = true
		}
		if oid != last {
			w.warned = append(w.warned, "the device's objects are not in order: "+oid+" follows "+last)
		}
	}
	if oid == last || w.seen[oid] {
		return true
	}
	w.seen[oid] = true
	return false
}

// next asks for what follows. A device that does not answer a GetBulk is asked
// for less, at last by GetNext; what worked is remembered.
func (w *walker) next(from string) ([]gosnmp.SnmpPDU, error) {
	for {
		n := w.rows()
		packet, err := w.request(from, n)
		switch {
		case err == nil && packet.Error == gosnmp.NoSuchName: // the end, in version 1
			return nil, nil
		case n > 0 && w.tooMuch(packet, err):
			w.s.learn(func(d device) device { return d.shrunk(n) })
		case err != nil:
			return nil, w.s.fault(err)
		case packet.Error != gosnmp.NoError:
			return nil, statusFault(packet)
		default:
			return packet.Variables, nil
		}
	}
}

// tooMuch says that a GetBulk failed in a way that a smaller one may not:
// with an error, without an answer, or with one that cannot be read (some
// agents cut a long answer off in the middle).
func (w *walker) tooMuch(packet *gosnmp.SnmpPacket, err error) bool {
	if err == nil {
		return packet.Error == gosnmp.TooBig || packet.Error == gosnmp.GenErr
	}
	var fault *jobs.Fault
	if !errors.As(w.s.fault(err), &fault) || w.s.ctx.Err() != nil {
		return false
	}
	return (fault.Code == jobs.CodeTimeout || fault.Code == jobs.CodeProtocolError) && w.alive()
}

// alive: silence before anything was ever answered means a dead device or a
// wrong community, which no smaller request mends.
func (w *walker) alive() bool {
	if w.s.heard {
		return true
	}
	_, err := w.s.ask(bulkRetries, func() (*gosnmp.SnmpPacket, error) { return w.s.GetNext([]string{"1.3"}) })
	return err == nil
}

// rows is how many to ask for; 0: by GetNext.
func (w *walker) rows() uint32 {
	switch known := w.s.device.MaxRepetitions; {
	case w.s.Version == gosnmp.Version1 || w.s.device.NoBulk:
		return 0
	case known > 0:
		return min(w.repetitions, known)
	default:
		return w.repetitions
	}
}

func (w *walker) request(from string, n uint32) (*gosnmp.SnmpPacket, error) {
	if n == 0 {
		return w.s.ask(readRetries, func() (*gosnmp.SnmpPacket, error) { return w.s.GetNext([]string{from}) })
	}
	return w.s.ask(bulkRetries, func() (*gosnmp.SnmpPacket, error) { return w.s.GetBulk([]string{from}, 0, n) })
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
