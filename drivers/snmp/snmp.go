// Package snmp gets, walks and sets objects of equipment by SNMP version 1,
// 2c and 3 (RFC 1157, 3416, 3414). The codec and the security model are
// gosnmp's; what a device cannot take is found out here, and remembered.
//
//	registry := snmp.Actions(snmp.Options{Network: network})
package snmp

import (
	"context"
	"strconv"
	"strings"

	"usm-satellite/jobs"
)

// Options say how devices are reached.
type Options struct {
	Network *jobs.Network
	// Secret finds the credential that a job names by ref; nil: none are known.
	Secret jobs.SecretFunc
}

// driver is what the actions share.
type driver struct {
	Options

	devices *lru[string, device]
	keys    *keyring
}

// Actions returns snmp.get, snmp.walk, snmp.table and snmp.set.
func Actions(o Options) jobs.Registry {
	d := &driver{Options: o, devices: newLRU[string, device](maxRemembered), keys: newKeyring()}
	return jobs.Registry{
		"snmp.get":   {Class: jobs.Read, Target: true, Check: checkOf[getParams], Driver: jobs.DriverFunc(d.get)},
		"snmp.walk":  {Class: jobs.Read, Target: true, Check: checkOf[walkParams], Driver: jobs.DriverFunc(d.walk)},
		"snmp.table": {Class: jobs.Read, Target: true, Check: checkOf[tableParams], Driver: jobs.DriverFunc(d.table)},
		"snmp.set":   {Class: jobs.Write, Target: true, Check: checkOf[setParams], Driver: jobs.DriverFunc(d.set)},
	}
}

type checker interface{ check() *jobs.Fault }

func checkOf[T any, P interface {
	*T
	checker
}](job *jobs.Job) *jobs.Fault {
	var p P = new(T)
	if fault := jobs.DecodeParams(job, p); fault != nil {
		return fault
	}
	return p.check()
}

const (
	maxOIDs        = 1000
	maxPDUs        = 100_000 // of one walk
	maxRepetitions = 1000
	maxWalkBytes   = 32 << 20
)

type getParams struct {
	OIDs []string `json:"oids"`
}

func (p *getParams) check() *jobs.Fault { return checkOIDs("params.oids", p.OIDs) }

func checkOIDs(field string, oids []string) *jobs.Fault {
	if len(oids) == 0 || len(oids) > maxOIDs {
		return jobs.Invalid(field, "must be 1 to %d object identifiers", maxOIDs)
	}
	for i, oid := range oids {
		clean, fault := checkOID(field, oid)
		if fault != nil {
			return fault
		}
		oids[i] = clean
	}
	return nil
}

// checkOID takes an OID with or without a leading dot, and returns it without.
func checkOID(field, oid string) (string, *jobs.Fault) {
	clean := strings.TrimPrefix(oid, ".")
	parts := strings.Split(clean, ".")
	bad := len(parts) < 2 || len(parts) > 128 || len(parts[0]) != 1 || parts[0][0] > '2'
	if !bad && parts[0] != "2" { // ITU and ISO have 40 arcs each
		second, err := strconv.Atoi(parts[1])
		bad = err != nil || second > 39
	}
	for _, part := range parts {
		bad = bad || part == "" || len(part) > 10 || strings.Trim(part, "0123456789") != "" || len(part) == 10 && part > "4294967295"
	}
	if bad {
		return "", jobs.Invalid(field, "must be numeric object identifiers, as 1.3.6.1.2.1.1.1.0")
	}
	return clean, nil
}

func (d *driver) get(ctx context.Context, job *jobs.Job) (jobs.Output, error) {
	var p getParams
	_ = jobs.DecodeParams(job, &p) // checked before
	_ = p.check()
	var out jobs.Output
	err := d.each(ctx, job, func(s *session) error {
		vars := make([]Varbind, 0, len(p.OIDs))
		for chunk := range chunks(p.OIDs, s.maxOIDs()) {
			got, err := s.get(chunk)
			if err != nil {
				return err
			}
			vars = append(vars, got...)
		}
		out.Data, out.Learned = varbinds{vars}, s.device.report()
		return nil
	})
	return out, err
}

type varbinds struct {
	Varbinds []Varbind `json:"varbinds"`
}

// List returns what snmp.get read, for drivers that build on it.
func (v varbinds) List() []Varbind { return v.Varbinds }

// chunks yields the parts of s that have at most n elements.
func chunks(s []string, n int) func(func([]string) bool) {
	return func(yield func([]string) bool) {
		for len(s) > 0 {
			k := min(n, len(s))
			if !yield(s[:k]) {
				return
			}
			s = s[k:]
		}
	}
}
