package simulator

import (
	"bufio"
	"embed"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/gosnmp/gosnmp"
)

//go:embed profiles/*.txt
var profileFiles embed.FS

// maxProfile bounds a profile, bytes.
const maxProfile = 16 << 20

// Profile is a device, read from text.
type Profile struct {
	Name  string
	Title string

	hostname, user, password, enable string
	community, writeCommunity        string
	pager                            int // lines of a page; 0: none
	faults                           map[Service]Fault
	objects                          []object
	answers                          map[string][]string // of a command, lines
	pages                            map[string]page     // of the web server, by path
}

type page struct {
	status      int
	contentType string
	body        string
}

// List returns the names of the profiles that are part of the program.
func List() []string {
	entries, err := profileFiles.ReadDir("profiles")
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".txt"))
	}
	return names
}

// Load reads a profile: one of List, or a file where the name has a slash or a
// dot in it. Errors name the line and what to write instead.
//
//	# a comment
//	title: what it is            base: switch48   (a profile to start from)
//	hostname: sw1                user: admin      password: admin
//	enable: secret               pager: 24        (lines; 0: none)
//	community: public            write-community: private
//	fault: snmp=hang             (or all=hang; may come again)
//
//	[snmp]
//	1.3.6.1.2.1.1.5.0|4|sw1
//	1.3.6.1.2.1.2.2.1.2.{1-48}|4|port {}
//
//	[cli]
//	> show version
//	Version 1.0
//
//	[http / 200 text/html]
//	<h1>sw1</h1>
//
// SNMP lines are those of .snmprec files: name, number of the type (2 Integer,
// 4 OctetString, 5 Null, 6 ObjectIdentifier, 64 IpAddress, 65 Counter32, 66
// Gauge32, 67 TimeTicks, 68 Opaque, 70 Counter64; with an x: in hexadecimal),
// value. {1-48} makes a line many; {} is its number. A later value, answer or
// page replaces an earlier one.
func Load(name string) (*Profile, error) {
	text, err := read(name)
	if err != nil {
		return nil, err
	}
	return parse(name, text)
}

func parse(name, text string) (*Profile, error) {
	p := &Profile{
		Name: strings.TrimSuffix(path.Base(name), ".txt"), hostname: "device", user: "admin", password: "admin", enable: "enable",
		community: "public", writeCommunity: "private", pager: 24,
		faults: make(map[Service]Fault), answers: make(map[string][]string), pages: make(map[string]page),
	}
	if err := p.parse(name, text, true); err != nil {
		return nil, err
	}
	p.trim()
	slices.SortStableFunc(p.objects, func(a, b object) int { return slices.Compare(a.id, b.id) })
	last := p.objects[:0]
	for _, o := range p.objects {
		if n := len(last); n > 0 && slices.Equal(last[n-1].id, o.id) {
			last[n-1] = o
			continue
		}
		last = append(last, o)
	}
	p.objects = last
	return p, nil
}

// trim takes the empty lines off that stand before a next section.
func (p *Profile) trim() {
	for command, lines := range p.answers {
		for len(lines) > 0 && strings.TrimSpace(lines[len(lines)-1]) == "" {
			lines = lines[:len(lines)-1]
		}
		p.answers[command] = lines
	}
	for name, page := range p.pages {
		page.body = strings.TrimRight(page.body, "\n") + "\n"
		p.pages[name] = page
	}
}

func read(name string) (string, error) {
	if !strings.ContainsAny(name, "/.") {
		text, err := profileFiles.ReadFile("profiles/" + name + ".txt")
		if err != nil {
			return "", fmt.Errorf("there is no profile %q; the profiles are %s; a file is written with its path, as ./%s", name, list(List()), name)
		}
		return string(text), nil
	}
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxProfile+1))
	if err != nil {
		return "", err
	}
	if len(text) > maxProfile {
		return "", fmt.Errorf("%s is longer than the %d bytes of a profile; leave values out", name, maxProfile)
	}
	return string(text), nil
}

// reader is where the parsing of one text stands.
type reader struct {
	p       *Profile
	bases   bool   // may name a base
	section string // "", "snmp", "cli", "http"
	command string // of the cli section
	path    string // of the http section
}

func (p *Profile) parse(name, text string, bases bool) error {
	r := &reader{p: p, bases: bases}
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, maxProfile+1)
	for n := 1; lines.Scan(); n++ {
		if err := r.line(lines.Text()); err != nil {
			return fmt.Errorf("%s, line %d: %w", name, n, err)
		}
	}
	return lines.Err()
}

func (r *reader) line(line string) error {
	header := strings.TrimSpace(line)
	switch {
	case header == "[snmp]", header == "[cli]":
		r.section, r.command = strings.Trim(header, "[]"), ""
		return nil
	case strings.HasPrefix(header, "[http ") && strings.HasSuffix(header, "]"):
		r.section = "http"
		return r.page(strings.Fields(strings.Trim(header, "[]"))[1:])
	}
	switch r.section {
	case "snmp":
		if header == "" || header[0] == '#' {
			return nil
		}
		return r.p.record(header)
	case "cli":
		return r.output(line)
	case "http":
		was := r.p.pages[r.path]
		was.body += line + "\n"
		r.p.pages[r.path] = was
		return nil
	}
	if header == "" || header[0] == '#' {
		return nil
	}
	return r.setting(header)
}

func (r *reader) setting(line string) error {
	name, value, ok := strings.Cut(line, ":")
	if !ok {
		return fmt.Errorf("%q is neither a setting nor a section; write NAME: VALUE, or [snmp], [cli], [http PATH STATUS TYPE]", line)
	}
	value = strings.TrimSpace(value)
	texts := map[string]*string{
		"title": &r.p.Title, "hostname": &r.p.hostname, "user": &r.p.user, "password": &r.p.password, "enable": &r.p.enable,
		"community": &r.p.community, "write-community": &r.p.writeCommunity,
	}
	switch name {
	case "pager":
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 {
			return fmt.Errorf("pager must be the lines of a page, not %q", value)
		}
		r.p.pager = n
	case "fault":
		return ParseFaults(value, r.p.faults)
	case "base":
		return r.base(value)
	default:
		if texts[name] == nil {
			return fmt.Errorf("there is no setting %q; the settings are title, base, hostname, user, password, enable, pager, community, write-community, fault", name)
		}
		*texts[name] = value
	}
	return nil
}

func (r *reader) base(name string) error {
	if !r.bases {
		return errors.New("a base cannot have a base; name the other one's base")
	}
	text, err := profileFiles.ReadFile("profiles/" + name + ".txt")
	if err != nil {
		return fmt.Errorf("there is no profile %q to start from; the profiles are %s", name, list(List()))
	}
	title := r.p.Title
	if err := r.p.parse(name, string(text), false); err != nil {
		return err
	}
	if title != "" {
		r.p.Title = title
	}
	return nil
}

func (r *reader) output(line string) error {
	if command, ok := strings.CutPrefix(line, "> "); ok {
		r.command = strings.Join(strings.Fields(command), " ")
		r.p.answers[r.command] = nil
		return nil
	}
	if r.command == "" {
		if strings.TrimSpace(line) == "" || line[0] == '#' {
			return nil
		}
		return errors.New("an answer without a command; write the command before it, behind \"> \"")
	}
	many, err := expand(line)
	if err != nil {
		return err
	}
	r.p.answers[r.command] = append(r.p.answers[r.command], many...)
	return nil
}

func (r *reader) page(words []string) error {
	if len(words) != 3 || !strings.HasPrefix(words[0], "/") {
		return errors.New("a page needs path, status and type; write [http / 200 text/html]")
	}
	status, err := strconv.Atoi(words[1])
	if err != nil || status < 200 || status > 599 {
		return fmt.Errorf("%q is no status; write one of 200 to 599", words[1])
	}
	r.path = words[0]
	r.p.pages[r.path] = page{status: status, contentType: words[2]}
	return nil
}

// expand makes a line with {1-48} many.
func expand(line string) ([]string, error) {
	before, rest, ok := strings.Cut(line, "{")
	digits, after, closed := strings.Cut(rest, "}")
	low, high, isRange := strings.Cut(digits, "-")
	if !ok || !closed || !isRange {
		return []string{line}, nil
	}
	from, err := strconv.Atoi(low)
	if err != nil {
		return []string{line}, nil //nolint:nilerr // braces of something else
	}
	to, err := strconv.Atoi(high)
	if err != nil || to < from || to-from >= 100000 {
		return nil, fmt.Errorf("{%s} is no range; write {1-48}, with at most 100000 numbers", digits)
	}
	many := make([]string, 0, to-from+1)
	for n := from; n <= to; n++ {
		number := strconv.Itoa(n)
		many = append(many, strings.ReplaceAll(before+number+after, "{}", number))
	}
	return many, nil
}

func (p *Profile) record(line string) error {
	many, err := expand(line)
	if err != nil {
		return err
	}
	for _, line := range many {
		fields := strings.SplitN(line, "|", 3)
		if len(fields) != 3 {
			return fmt.Errorf("%q is no value; write NAME|TYPE|VALUE, as in 1.3.6.1.2.1.1.5.0|4|sw1", line)
		}
		id, err := parseOID(fields[0])
		if err != nil {
			return err
		}
		pdu := gosnmp.SnmpPDU{Name: formatOID(id)}
		if pdu.Type, pdu.Value, err = parseValue(fields[1], fields[2]); err != nil {
			return err
		}
		p.objects = append(p.objects, object{id: id, pdu: pdu})
	}
	return nil
}

// Text returns the text of one of List, as a pattern for another.
func Text(name string) (string, error) {
	if strings.ContainsAny(name, "/.") {
		return "", fmt.Errorf("%q is a file, not one of the profiles %s", name, list(List()))
	}
	return read(name)
}

// Faults returns what the profile itself does wrong, as a copy.
func (p *Profile) Faults() map[Service]Fault { return maps.Clone(p.faults) }

// Access says in a few words how a service is let in to.
func (p *Profile) Access(service Service) string {
	switch service {
	case SNMP:
		return fmt.Sprintf("%d values, community %s, to write %s", len(p.objects), p.community, p.writeCommunity)
	case SSH, Telnet:
		return fmt.Sprintf("user %s, password %s, enable %s", p.user, p.password, p.enable)
	default:
		return "pages " + strings.Join(slices.Sorted(maps.Keys(p.pages)), " ")
	}
}
