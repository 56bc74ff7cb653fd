package snmp

import (
	"context"
	"slices"
	"strings"

	"usm-satellite/jobs"
)

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

type tableData struct {
	Rows    []Row  `json:"rows"`
	LastOID string `json:"last_oid,omitempty"` // of a partial table: how far it came
}

func (d *driver) table(ctx context.Context, job *jobs.Job) (jobs.Output, error) {
	var p tableParams
	_ = jobs.DecodeParams(job, &p) // checked before
	_ = p.check()
	var out jobs.Output
	err := d.each(ctx, job, func(s *session) error {
		t := tableBuilder{rows: make(map[string]*Row)}
		w := newWalker(s, job, p.MaxRepetitions)
		limited := false
		var err error
		for _, column := range p.Columns {
			w.vars, w.seen = nil, nil
			w.frame = func(oid string) int { return t.frame(column, oid) }
			err = w.subtree(column, "")
			t.add(column, w.vars)
			if w.cut && w.maxRows > 0 && len(w.vars) == w.maxRows { // the other columns have as many
				w.cut, limited = false, true
			}
			if err != nil || w.cut {
				break
			}
		}
		w.cut = w.cut || limited
		rows := t.sorted()
		if w.maxRows > 0 && len(rows) > w.maxRows { // columns with holes
			rows = rows[:w.maxRows]
		}
		out = w.output(err, len(rows) > 0)
		out.Data = tableData{Rows: rows, LastOID: w.lastIf(out.Partial)}
		return err
	})
	return out, err
}

// tableBuilder puts columns together to rows.
type tableBuilder struct {
	rows  map[string]*Row
	order []string
}

func (t *tableBuilder) add(column string, vars []Varbind) {
	for _, v := range vars {
		if len(v.OID) <= len(column)+1 {
			continue // the column itself is no cell
		}
		index := v.OID[len(column)+1:]
		row := t.rows[index]
		if row == nil {
			row = &Row{Index: index, Values: make(map[string]Varbind)}
			t.rows[index] = row
			t.order = append(t.order, index)
		}
		row.Values[column] = v
	}
}

// frame is what stands around a cell in the result, in bytes: the name of its
// column, and the row where it is the first of it.
func (t *tableBuilder) frame(column, oid string) int {
	n := len(column) + len(`"":,`)
	if index := strings.TrimPrefix(oid, column+"."); t.rows[index] == nil {
		n += len(index) + len(`{"index":"","values":{}},`)
	}
	return n
}

func (t *tableBuilder) sorted() []Row {
	slices.SortFunc(t.order, compareOIDs)
	rows := make([]Row, len(t.order))
	for i, index := range t.order {
		rows[i] = *t.rows[index]
	}
	return rows
}
