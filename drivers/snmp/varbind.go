package snmp

import (
	"encoding/hex"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/gosnmp/gosnmp"

	"usm-satellite/jobs"
)

// Varbind is an object with its value, as the wire contract has it.
type Varbind struct {
	OID   string  `json:"oid"`
	Type  string  `json:"type"`
	Value any     `json:"value"`
	Hex   *string `json:"hex,omitempty"` // of an OctetString and of Opaque: always
}

// size is the most that v takes in a result, in bytes.
func (v *Varbind) size() int {
	n := len(v.OID) + len(v.Type) + len(`{"oid":"","type":"","value":,"hex":""},`)
	if text, ok := v.Value.(string); ok {
		n += jobs.JSONSize(text) + len(`""`)
	} else {
		n += 24 // a number, in any form
	}
	if v.Hex != nil {
		n += len(*v.Hex)
	}
	return n
}

func varbind(pdu gosnmp.SnmpPDU) Varbind {
	v := Varbind{OID: strings.TrimPrefix(pdu.Name, "."), Type: typeName(pdu.Type)}
	switch value := pdu.Value.(type) {
	case []byte:
		text := hex.EncodeToString(value)
		v.Hex = &text
		if printable(value) {
			v.Value = string(value)
		}
	case string:
		v.Value = strings.TrimPrefix(value, ".")
	case uint64:
		if pdu.Type == gosnmp.Counter64 {
			v.Value = strconv.FormatUint(value, 10) // a JSON number would lose it in many languages
			return v
		}
		v.Value = value
	case float32:
		v.Value = finite(float64(value))
	case float64:
		v.Value = finite(value)
	case nil:
	default:
		v.Value = value
	}
	return v
}

// finite: JSON has no infinity.
func finite(f float64) any {
	if math.IsInf(f, 0) || math.IsNaN(f) {
		return fmt.Sprint(f)
	}
	return f
}

func printable(b []byte) bool {
	if !utf8.Valid(b) {
		return false
	}
	for _, r := range string(b) {
		if r < ' ' && r != '\n' && r != '\r' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return false
		}
	}
	return true
}

func typeName(t gosnmp.Asn1BER) string {
	switch t {
	case gosnmp.Integer:
		return "Integer"
	case gosnmp.OctetString, gosnmp.BitString:
		return "OctetString"
	case gosnmp.ObjectIdentifier:
		return "ObjectIdentifier"
	case gosnmp.IPAddress:
		return "IPAddress"
	case gosnmp.Counter32:
		return "Counter32"
	case gosnmp.Gauge32, gosnmp.Uinteger32:
		return "Gauge32"
	case gosnmp.TimeTicks:
		return "TimeTicks"
	case gosnmp.Counter64:
		return "Counter64"
	case gosnmp.Opaque:
		return "Opaque"
	case gosnmp.OpaqueFloat:
		return "OpaqueFloat"
	case gosnmp.OpaqueDouble:
		return "OpaqueDouble"
	case gosnmp.Null:
		return "Null"
	case gosnmp.NoSuchObject:
		return "NoSuchObject"
	case gosnmp.NoSuchInstance:
		return "NoSuchInstance"
	case gosnmp.EndOfMibView:
		return "EndOfMibView"
	default:
		return "Opaque"
	}
}

// wanted is a varbind as a job gives it to snmp.set.
type wanted struct {
	OID   string `json:"oid"`
	Type  string `json:"type"`
	Value any    `json:"value"`
	Hex   string `json:"hex"`
}

// pdu turns it into what the library sends.
func (w wanted) pdu(field string) (gosnmp.SnmpPDU, *jobs.Fault) {
	oid, fault := checkOID(field+".oid", w.OID)
	if fault != nil {
		return gosnmp.SnmpPDU{}, fault
	}
	pdu := gosnmp.SnmpPDU{Name: "." + oid}
	switch w.Type {
	case "Integer":
		pdu.Type = gosnmp.Integer
		n, fault := w.number(field, math.MinInt32, math.MaxInt32)
		pdu.Value = int(n)
		return pdu, fault
	case "Counter32", "Gauge32", "TimeTicks":
		pdu.Type = map[string]gosnmp.Asn1BER{"Counter32": gosnmp.Counter32, "Gauge32": gosnmp.Gauge32, "TimeTicks": gosnmp.TimeTicks}[w.Type]
		n, fault := w.number(field, 0, math.MaxUint32)
		pdu.Value = uint32(n) //nolint:gosec // checked
		return pdu, fault
	case "OctetString":
		pdu.Type = gosnmp.OctetString
		bytes, fault := w.bytes(field)
		pdu.Value = bytes
		return pdu, fault
	case "ObjectIdentifier":
		text, _ := w.Value.(string)
		clean, fault := checkOID(field+".value", text)
		pdu.Type, pdu.Value = gosnmp.ObjectIdentifier, "."+clean
		return pdu, fault
	case "IPAddress":
		text, _ := w.Value.(string)
		pdu.Type, pdu.Value = gosnmp.IPAddress, text
		if address, err := netip.ParseAddr(text); err != nil || !address.Is4() {
			return pdu, jobs.Invalid(field+".value", "must be an IPv4 address")
		}
		return pdu, nil
	default:
		return pdu, jobs.Invalid(field+".type", "must be Integer, OctetString, ObjectIdentifier, IPAddress, Counter32, Gauge32 or TimeTicks")
	}
}

func (w wanted) number(field string, least, most float64) (int64, *jobs.Fault) {
	n, ok := w.Value.(float64)
	if text, isText := w.Value.(string); isText {
		parsed, err := strconv.ParseInt(text, 10, 64)
		n, ok = float64(parsed), err == nil
	}
	if !ok || n != math.Trunc(n) || n < least || n > most {
		return 0, jobs.Invalid(field+".value", "must be a whole number from %.0f to %.0f", least, most)
	}
	return int64(n), nil
}

func (w wanted) bytes(field string) ([]byte, *jobs.Fault) {
	if w.Hex != "" {
		b, err := hex.DecodeString(w.Hex)
		if err != nil {
			return nil, jobs.Invalid(field+".hex", "must be hexadecimal")
		}
		return b, nil
	}
	text, ok := w.Value.(string)
	if !ok {
		return nil, jobs.Invalid(field+".value", "must be a string (or give hex)")
	}
	return []byte(text), nil
}
