package simulator

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/gosnmp/gosnmp"
)

func parseOID(name string) ([]uint32, error) {
	parts := strings.Split(strings.TrimPrefix(name, "."), ".")
	id := make([]uint32, len(parts))
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("%q is no name of an object; write numbers with dots between them, as in 1.3.6.1.2.1.1.5.0", name)
		}
		id[i] = uint32(n)
	}
	if len(id) < 2 || len(id) > 128 || id[0] > 2 || (id[0] < 2 && id[1] > 39) {
		return nil, fmt.Errorf("%q is no name of an object; it has 2 to 128 numbers and begins as 1.3", name)
	}
	return id, nil
}

func formatOID(id []uint32) string {
	var b strings.Builder
	for _, n := range id {
		b.WriteByte('.')
		b.WriteString(strconv.FormatUint(uint64(n), 10))
	}
	return b.String()
}

// parseValue reads type and value of an .snmprec line.
func parseValue(kind, text string) (gosnmp.Asn1BER, any, error) {
	number, inHex := strings.CutSuffix(kind, "x")
	n, err := strconv.ParseUint(number, 10, 8)
	if err != nil {
		return 0, nil, fmt.Errorf("%q is no type; write its number, as 4 for an OctetString", kind)
	}
	if inHex {
		raw, err := hex.DecodeString(text)
		if err != nil {
			return 0, nil, fmt.Errorf("%q is not hexadecimal; write two digits a byte", text)
		}
		text = string(raw)
	}
	t := gosnmp.Asn1BER(n)
	var value any
	switch t {
	case gosnmp.Integer:
		var v int64
		v, err = strconv.ParseInt(text, 10, 32)
		value = int(v)
	case gosnmp.Counter32, gosnmp.Gauge32:
		var v uint64
		v, err = strconv.ParseUint(text, 10, 32)
		value = uint(v)
	case gosnmp.TimeTicks:
		var v uint64
		v, err = strconv.ParseUint(text, 10, 32)
		value = uint32(v)
	case gosnmp.Counter64:
		value, err = strconv.ParseUint(text, 10, 64)
	case gosnmp.OctetString, gosnmp.Opaque:
		value = []byte(text)
	case gosnmp.Null:
	case gosnmp.ObjectIdentifier:
		var id []uint32
		id, err = parseOID(text)
		value = formatOID(id)
	case gosnmp.IPAddress:
		var address netip.Addr
		if address, err = netip.ParseAddr(text); err == nil && !address.Is4() {
			err = fmt.Errorf("%s is not of version 4", text)
		}
		value = text
	default:
		return 0, nil, fmt.Errorf("the type %d is not known; it is one of 2, 4, 5, 6, 64, 65, 66, 67, 68, 70", n)
	}
	if err != nil {
		return 0, nil, fmt.Errorf("%q is no value of the type %d (%s); correct one of them: %w", text, n, t, err)
	}
	return t, value, nil
}
