package tunnel

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	maxLine  = 64 << 10
	maxLines = 1 << 20
)

// A LineError is a line of a configuration file that cannot be used. It names
// the line and the key and never quotes the value of a secret.
type LineError struct {
	Line int // from 1
	Key  string
	Err  error
}

func (e *LineError) Error() string {
	if e.Key == "" {
		return fmt.Sprintf("line %d: %v", e.Line, e.Err)
	}
	return fmt.Sprintf("line %d: %s %v", e.Line, e.Key, e.Err)
}

func (e *LineError) Unwrap() error { return e.Err }

// ParseQuick reads a configuration in the form of wg-quick(8): one
// [Interface] and one [Peer]. Lines that are about the operating system
// (PostUp and its like, Table, SaveConfig, FwMark) have no meaning here and
// are an error where they would run something, else ignored. The comment
// lines "# MoreEndpoints = host:port, ..." and "# Name = ..." are read.
func ParseQuick(r io.Reader) (Config, error) {
	var c Config
	p := fileParser{onSection: func(name string) (func(key, value string) error, error) {
		switch name {
		case "interface":
			return c.setInterface, nil
		case "peer":
			return c.Peer.set, nil
		}
		return nil, errUnknownSection
	}}
	if err := p.parse(r); err != nil {
		return Config{}, err
	}
	if p.seen["peer"] > 1 {
		return Config{}, errors.New("there is more than one [Peer]: leave the one behind which the broker is; further endpoints of it go into a line `# MoreEndpoints = host:port, host:port`")
	}
	if p.seen["interface"] > 1 {
		return Config{}, errors.New("there is more than one [Interface]: leave one")
	}
	return c, c.Validate()
}

// ParsePeers reads a file of [Peer] blocks, the hub's list: PublicKey,
// PresharedKey, AllowedIPs and the comment "# Name = ...".
func ParsePeers(r io.Reader) ([]Peer, error) {
	var peers []Peer
	p := fileParser{onSection: func(name string) (func(key, value string) error, error) {
		if name != "peer" {
			return nil, errors.New("is not for this file, which holds [Peer] blocks only")
		}
		peers = append(peers, Peer{})
		return peers[len(peers)-1].set, nil
	}}
	if err := p.parse(r); err != nil {
		return nil, err
	}
	if err := checkPeers(peers); err != nil {
		return nil, err
	}
	return peers, nil
}

// checkPeers refuses what WireGuard would take silently: one key twice, or one
// inner address at two peers, of which the last would win.
func checkPeers(peers []Peer) error {
	keys := map[PublicKey]int{}
	owners := map[netip.Prefix]int{}
	for i, p := range peers {
		if p.PublicKey.IsZero() {
			return fmt.Errorf("peer %d (%s) has no PublicKey", i+1, p.Name)
		}
		if len(p.AllowedIPs) == 0 {
			return fmt.Errorf("peer %d (%s) has no AllowedIPs: give its inner address, such as 10.77.0.7/32", i+1, p.Name)
		}
		if first, ok := keys[p.PublicKey]; ok {
			return fmt.Errorf("peers %d and %d have the same PublicKey: every satellite needs its own", first+1, i+1)
		}
		keys[p.PublicKey] = i
		for _, prefix := range p.AllowedIPs {
			if first, ok := owners[prefix]; ok {
				return fmt.Errorf("peers %d and %d have the same address %v in AllowedIPs: every satellite needs its own", first+1, i+1, prefix)
			}
			owners[prefix] = i
		}
	}
	return checkOverlap(owners)
}

// checkOverlap refuses a network that holds another peer's address.
func checkOverlap(owners map[netip.Prefix]int) error {
	for prefix, owner := range owners {
		for bits := range prefix.Bits() {
			wider := netip.PrefixFrom(prefix.Addr(), bits).Masked()
			if other, ok := owners[wider]; ok && other != owner {
				return fmt.Errorf("AllowedIPs %v of peer %d lies within %v of peer %d: give each peer its own addresses", prefix, owner+1, wider, other+1)
			}
		}
	}
	return nil
}

var (
	errUnknownSection = errors.New("is not a section of a wg-quick file (they are [Interface] and [Peer])")
	errUnknownKey     = errors.New("is not a setting of this section")
	errRunsCommands   = errors.New("runs commands, which this program does not do: delete the line")
)

// fileParser walks the lines of an ini-like file.
type fileParser struct {
	onSection func(name string) (func(key, value string) error, error)
	seen      map[string]int
	set       func(key, value string) error
}

func (p *fileParser) parse(r io.Reader) error {
	p.seen = map[string]int{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	n := 0
	for lines.Scan() {
		n++
		if n > maxLines {
			return &LineError{Line: n, Err: errors.New("the file has too many lines")}
		}
		if err := p.line(n, lines.Text()); err != nil {
			return err
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return &LineError{Line: n + 1, Err: fmt.Errorf("is longer than %d bytes", maxLine)}
	}
	return lines.Err()
}

func (p *fileParser) line(n int, line string) error {
	if n == 1 {
		line = strings.TrimPrefix(line, "\ufeff") // a Windows editor's byte order mark
	}
	if comment, ok := strings.CutPrefix(strings.TrimSpace(line), "#"); ok {
		return p.comment(n, comment)
	}
	line, _, _ = strings.Cut(line, "#")
	line = strings.TrimSpace(line)
	if line == "" {
		return nil
	}
	if strings.HasPrefix(line, "[") {
		return p.section(n, line)
	}
	key, value, ok := strings.Cut(line, "=")
	key, value = strings.TrimSpace(key), strings.TrimSpace(value)
	if !ok || !isWord(key) {
		return &LineError{Line: n, Err: errors.New("is neither [Section] nor Key = value")}
	}
	if p.set == nil {
		return &LineError{Line: n, Key: key, Err: errors.New("stands before any [Interface] or [Peer]")}
	}
	if value == "" {
		return &LineError{Line: n, Key: key, Err: errors.New("has no value: give one or delete the line")}
	}
	if err := p.set(key, value); err != nil {
		return &LineError{Line: n, Key: key, Err: err}
	}
	return nil
}

func (p *fileParser) section(n int, line string) error {
	name, ok := strings.CutSuffix(line[1:], "]")
	name = strings.TrimSpace(name)
	if !ok || !isWord(name) {
		return &LineError{Line: n, Err: errors.New("starts with [ but is no [Section]")}
	}
	key := strings.ToLower(name)
	set, err := p.onSection(key)
	if err != nil {
		return &LineError{Line: n, Key: "[" + name + "]", Err: err}
	}
	p.seen[key]++
	p.set = set
	return nil
}

// comment reads the two settings that other programs must take for comments.
func (p *fileParser) comment(n int, text string) error {
	key, value, ok := strings.Cut(text, "=")
	key, value = strings.TrimSpace(key), strings.TrimSpace(value)
	lower := strings.ToLower(key)
	if !ok || p.set == nil || value == "" || (lower != "moreendpoints" && lower != "name") {
		return nil
	}
	err := p.set("#"+lower, value)
	if errors.Is(err, errUnknownKey) {
		return nil
	}
	if err != nil {
		return &LineError{Line: n, Key: "# " + key, Err: err}
	}
	return nil
}

// isWord keeps text that may be a misplaced secret out of errors: a key of
// base64 has digits, signs or more than 24 letters.
func isWord(s string) bool {
	if s == "" || len(s) > 24 {
		return false
	}
	for _, c := range s {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return true
}

func (c *Config) setInterface(key, value string) (err error) {
	switch strings.ToLower(key) {
	case "privatekey":
		c.PrivateKey, err = ParsePrivateKey(value)
	case "address":
		c.Addresses, err = appendPrefixes(c.Addresses, value)
	case "dns":
		c.DNS, err = appendDNS(c.DNS, value)
	case "mtu":
		c.MTU, err = strconv.Atoi(value)
		if err != nil || c.MTU < minMTU || c.MTU > maxMTU {
			err = fmt.Errorf("is not a number of bytes within %d and %d", minMTU, maxMTU)
		}
	case "listenport":
		var port uint64
		if port, err = strconv.ParseUint(value, 10, 16); err != nil {
			err = errors.New("is not a port within 0 and 65535")
		}
		c.ListenPort = uint16(port)
	case "table", "saveconfig", "fwmark":
	case "preup", "postup", "predown", "postdown":
		err = errRunsCommands
	default:
		err = errUnknownKey
	}
	return err
}

func (p *Peer) set(key, value string) (err error) {
	switch strings.ToLower(key) {
	case "publickey":
		p.PublicKey, err = ParsePublicKey(value)
	case "presharedkey":
		p.PresharedKey, err = ParsePresharedKey(value)
	case "allowedips":
		p.AllowedIPs, err = appendPrefixes(p.AllowedIPs, value)
		for i, prefix := range p.AllowedIPs {
			p.AllowedIPs[i] = prefix.Masked()
		}
	case "endpoint":
		// In front: "# MoreEndpoints" may stand above it.
		p.Endpoints, err = appendEndpoints(nil, value, p.Endpoints)
	case "#moreendpoints":
		p.Endpoints, err = appendEndpoints(p.Endpoints, value, nil)
	case "#name":
		p.Name = printable(value)
	case "persistentkeepalive":
		p.Keepalive, err = parseKeepalive(value)
	default:
		err = errUnknownKey
	}
	return err
}

func appendPrefixes(list []netip.Prefix, value string) ([]netip.Prefix, error) {
	for text := range strings.SplitSeq(value, ",") {
		text = strings.TrimSpace(text)
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			addr, addrErr := netip.ParseAddr(text)
			if addrErr != nil || addr.Zone() != "" {
				return nil, errors.New("holds something that is not an address or address/bits (several are separated by commas)")
			}
			prefix = netip.PrefixFrom(addr, addr.BitLen())
		}
		if prefix.Addr().Is4In6() {
			return nil, errors.New("holds an IPv4 address in IPv6 form: write it as IPv4")
		}
		list = append(list, prefix)
	}
	return list, nil
}

// appendDNS takes addresses and leaves out search domains, which wg-quick
// allows in the same line and which have no meaning here.
func appendDNS(list []netip.Addr, value string) ([]netip.Addr, error) {
	for text := range strings.SplitSeq(value, ",") {
		text = strings.TrimSpace(text)
		addr, err := netip.ParseAddr(text)
		switch {
		case err == nil && addr.Zone() == "":
			list = append(list, addr)
		case text == "" || strings.ContainsAny(text, ":/ "):
			return nil, errors.New("holds something that is not the address of a name server")
		}
	}
	return list, nil
}

func appendEndpoints(before []string, value string, after []string) ([]string, error) {
	list := slices.Clone(before)
	for text := range strings.SplitSeq(value, ",") {
		text = strings.TrimSpace(text)
		if _, _, err := splitEndpoint(text); err != nil {
			return nil, err
		}
		list = append(list, text)
	}
	return append(list, after...), nil
}

func parseKeepalive(value string) (time.Duration, error) {
	if strings.EqualFold(value, "off") {
		return -1, nil
	}
	n, err := strconv.ParseUint(value, 10, 16)
	if err != nil {
		return 0, errors.New("is neither off nor a number of seconds within 0 and 65535")
	}
	if n == 0 {
		return -1, nil
	}
	return time.Duration(n) * time.Second, nil
}

// printable keeps control characters of a file out of logs and terminals.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	return strings.ToValidUTF8(s[:min(len(s), 64)], "")
}
