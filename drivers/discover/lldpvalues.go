package discover

import (
	"encoding/hex"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"usm-satellite/drivers/snmp"
)

// under returns the numbers by which oid goes on behind root.
func under(oid, root string) ([]uint32, bool) {
	rest, ok := strings.CutPrefix(oid, root+".")
	if !ok {
		return nil, false
	}
	parts := strings.Split(rest, ".")
	numbers := make([]uint32, len(parts))
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 10, 32)
		if err != nil {
			return nil, false
		}
		numbers[i] = uint32(n)
	}
	return numbers, true
}

// number returns the value of an Integer or of an Unsigned32; -1: it has none.
func number(v snmp.Varbind) int {
	switch n := v.Value.(type) {
	case int:
		return n
	case uint:
		return int(min(n, math.MaxInt32))
	}
	return -1
}

// octets returns the bytes of an OctetString, and the text of anything else
// that an agent may have put in its place.
func octets(v snmp.Varbind) []byte {
	if v.Hex != nil {
		b, err := hex.DecodeString(*v.Hex)
		if err == nil {
			return b
		}
	}
	if v.Value == nil {
		return nil
	}
	return fmt.Append(nil, v.Value)
}

// text is what bytes say, or their hexadecimal digits. C programs are behind
// many agents: NULs at the end mean nothing.
func text(b []byte) string {
	s := strings.TrimRight(string(b), "\x00")
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\r' && r != '\t' }) {
		return net.HardwareAddr(b).String()
	}
	return s
}

// LldpChassisIdSubtype and LldpPortIdSubtype (IEEE 802.1AB-2005, 9.5.2.2 and
// 9.5.3.2).
func chassisSubtype(n int) string {
	return named(n, 1, "chassis_component", "interface_alias", "port_component", macAddress, networkAddress, "interface_name", "local")
}

func portSubtype(n int) string {
	return named(n, 1, "interface_alias", "port_component", macAddress, networkAddress, "interface_name", "agent_circuit_id", "local")
}

const (
	macAddress     = "mac_address"
	networkAddress = "network_address"
)

// named returns the name of n, where the first has the number first.
func named(n, first int, names ...string) string {
	if i := n - first; i >= 0 && i < len(names) {
		return names[i]
	}
	return "unknown"
}

// identity words the id of a chassis or of a port.
func identity(subtype string, b []byte) string {
	switch {
	case subtype == macAddress && len(b) == 6:
		return net.HardwareAddr(b).String()
	case subtype == networkAddress && len(b) > 1:
		if _, a, ok := addressOf(uint32(b[0]), b[1:]); ok {
			return a
		}
		if addr, ok := netip.AddrFromSlice(b); ok { // without its family
			return addr.String()
		}
	}
	return text(b)
}

// addressOf words an address of a family of IANA's address family numbers.
func addressOf(family uint32, b []byte) (name, addr string, ok bool) {
	switch {
	case family == 1 && len(b) == 4:
		name = "ipv4"
	case family == 2 && len(b) == 16:
		name = "ipv6"
	case family == 6 && len(b) == 6:
		return "mac", net.HardwareAddr(b).String(), true
	default:
		return "", "", false
	}
	ip, ok := netip.AddrFromSlice(b)
	return name, ip.String(), ok
}

// managementAddress reads the end of an index of lldpRemManAddrTable: family,
// length, bytes. Some agents leave the length out.
func managementAddress(index []uint32) (address, bool) {
	const most = 31 // bytes (LldpManAddress)
	if len(index) < 2 {
		return address{}, false
	}
	family, numbers := index[0], index[1:]
	if int64(numbers[0]) == int64(len(numbers)-1) {
		numbers = numbers[1:]
	} else if !(family == 1 && len(numbers) == 4 || family == 2 && len(numbers) == 16) {
		return address{}, false
	}
	if len(numbers) == 0 || len(numbers) > most {
		return address{}, false
	}
	b := make([]byte, len(numbers))
	for i, n := range numbers {
		if n > 255 {
			return address{}, false
		}
		b[i] = byte(n)
	}
	if name, addr, ok := addressOf(family, b); ok {
		return address{Family: name, Address: addr}, true
	}
	return address{Family: "family " + strconv.FormatUint(uint64(family), 10), Address: net.HardwareAddr(b).String()}, true
}

// capabilities names the bits of LldpSystemCapabilitiesMap, the first of which
// is the highest of the first byte.
func capabilities(b []byte) []string {
	names := []string{"other", "repeater", "bridge", "wlan_access_point", "router", "telephone", "docsis_cable_device", "station_only"}
	set := []string{}
	for i, name := range names {
		if i/8 < len(b) && b[i/8]&(0x80>>(i%8)) != 0 {
			set = append(set, name)
		}
	}
	return set
}
