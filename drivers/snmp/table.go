package snmp

import "slices"

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

func (t *tableBuilder) sorted() []Row {
	slices.SortFunc(t.order, compareOIDs)
	rows := make([]Row, len(t.order))
	for i, index := range t.order {
		rows[i] = *t.rows[index]
	}
	return rows
}
