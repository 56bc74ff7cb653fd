package simulator

import (
	"bufio"
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/gosnmp/gosnmp"
)

// FuzzProfile demands that no text breaks the reader, that errors name the
// line, and that a profile that is taken can be walked from end to end.
func FuzzProfile(f *testing.F) {
	for _, name := range List() {
		text, err := Text(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add("fault: all=drip\n[snmp]\n1.3.6.1.{1-3}|4x|0a\n[http / 200 a/b]\nx\n[cli]\n> a b\nc{1-2}\n")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parse("x", text)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "x, line ") && !strings.Contains(err.Error(), ", line ") {
				t.Fatalf("no line is named: %v", err)
			}
			return
		}
		if !slices.IsSortedFunc(p.objects, func(a, b object) int { return slices.Compare(a.id, b.id) }) {
			t.Fatal("the objects have no order")
		}
		a, name := newAgent(p), ".0.0"
		for range 1000 {
			next := a.next(name, false)
			if next.Type == gosnmp.EndOfMibView {
				break
			}
			name = next.Name
		}
		for _, s := range Services() {
			_ = p.Access(s)
		}
	})
}

// FuzzAgent demands that no packet breaks the agent, that what it says fits
// into a frame, and that only the right community hears it.
func FuzzAgent(f *testing.F) {
	p, err := Load("switch48")
	if err != nil {
		f.Fatal(err)
	}
	for _, kind := range []gosnmp.PDUType{gosnmp.GetRequest, gosnmp.GetNextRequest, gosnmp.GetBulkRequest, gosnmp.SetRequest} {
		for _, community := range []string{"public", "private"} {
			packet, err := (&gosnmp.SnmpPacket{
				Version: gosnmp.Version2c, Community: community, PDUType: kind, RequestID: 7, MaxRepetitions: 20,
				Variables: []gosnmp.SnmpPDU{{Name: ".1.3.6.1.2.1.1.5.0", Type: gosnmp.OctetString, Value: []byte("x")}},
			}).MarshalMsg()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(packet)
		}
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		a := newAgent(p)
		answer := a.respond(packet)
		if len(answer) > maxMessage {
			t.Fatalf("an answer of %d bytes", len(answer))
		}
		if answer != nil && !bytes.Contains(packet, []byte("public")) && !bytes.Contains(packet, []byte("private")) {
			t.Fatal("answered a wrong community")
		}
	})
}

// FuzzConsole demands that nothing that is typed breaks the command line, that
// nobody is let in or becomes privileged without the passwords, and that what
// is shown is Telnet.
func FuzzConsole(f *testing.F) {
	p, err := Load("switch48")
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("admin\r\nadmin\r\nterminal length 0\r\nshow version\r\nenable\r\nenable\r\nconfigure terminal\r\nhostname x\xff\xff\r\nend\r\nshow running-config\r\n"))
	f.Add([]byte("\xff\xfd\x01\xff\xfa\x18\x00xterm\xff\xf0admin\r\x00admin\r\x00show interfaces status\r\nq"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		d := &device{Profile: p, faults: map[Service]Fault{}, log: slog.New(slog.DiscardHandler), agent: newAgent(p)}
		var out bytes.Buffer
		c := d.newConsole(&typed{raw: bufio.NewReader(bytes.NewReader(stream))}, &escaped{&out}, Telnet)
		if c.login() == nil {
			if bytes.Count(stream, []byte("m")) < 2 { // of admin, twice
				t.Fatalf("let in by %q", stream)
			}
			c.run()
		}
		if len(d.configured) > 0 && bytes.Count(stream, []byte("b")) < 2 { // of enable, twice
			t.Fatalf("%q was configured by %q", d.configured, stream)
		}
		if bytes.Count(out.Bytes(), []byte{iac})%2 != 0 {
			t.Fatalf("%q has a byte 255 that would be a command", out.Bytes())
		}
	})
}
