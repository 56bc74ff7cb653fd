package telnet

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
)

// peer returns a Conn and the other end of its wire. What the Conn sends is
// collected and given by sent.
func peer(t *testing.T, o Options) (conn *Conn, wire net.Conn, sent func() []byte) {
	t.Helper()
	a, b := net.Pipe()
	var out bytes.Buffer
	done := make(chan struct{})
	go func() { // ends when a closes
		defer close(done)
		io.Copy(&out, b)
	}()
	t.Cleanup(func() { a.Close(); b.Close(); <-done })
	return Wrap(a, o), b, func() []byte {
		a.Close()
		<-done
		return out.Bytes()
	}
}

func TestReadTakesTheProtocolOut(t *testing.T) {
	tests := []struct {
		name, in, data, answer string
	}{
		{"plain", "hello", "hello", ""},
		{"doubled IAC is one byte", "a\xff\xffb", "a\xffb", ""},
		{"CR NUL is CR", "a\r\x00b\r\nc", "a\rb\r\nc", ""},
		{"NUL elsewhere stays", "a\x00b", "a\x00b", ""},
		{"echo and SGA are taken", "\xff\xfb\x01\xff\xfb\x03x", "x", "\xff\xfd\x01\xff\xfd\x03"},
		{"an offer of the same is not answered twice", "\xff\xfb\x01\xff\xfb\x01", "", "\xff\xfd\x01"},
		{"unknown options are refused", "\xff\xfb\x22\xff\xfd\x22", "", "\xff\xfe\x22\xff\xfc\x22"},
		{"a refusal of what is off needs no answer", "\xff\xfe\x1f\xff\xfc\x01", "", ""},
		{"taken back", "\xff\xfb\x01\xff\xfc\x01", "", "\xff\xfd\x01\xff\xfe\x01"},
		{"window size", "\xff\xfd\x1f", "", "\xff\xfb\x1f\xff\xfa\x1f\x00\x50\x00\x18\xff\xf0"},
		{"terminal type", "\xff\xfd\x18\xff\xfa\x18\x01\xff\xf0", "", "\xff\xfb\x18\xff\xfa\x18\x00vt100\xff\xf0"},
		{"terminal type unasked", "\xff\xfa\x18\x01\xff\xf0", "", ""},
		{"we never echo", "\xff\xfd\x01", "", "\xff\xfc\x01"},
		{"GA, NOP and data mark mean nothing", "a\xff\xf9\xff\xf1\xff\xf2b", "ab", ""},
		{"suboption with IAC inside", "\xff\xfa\x55a\xff\xffb\xff\xf0c", "c", ""},
		{"suboption cut by a command", "\xff\xfa\x55a\xff\xfb\x01c", "c", "\xff\xfd\x01"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			whole := parser{options: Options{Terminal: "vt100", Width: 80, Height: 24}}
			data, answer, err := whole.feed(nil, []byte(test.in))
			if err != nil || string(data) != test.data || string(answer) != test.answer {
				t.Errorf("got %q, answer %q, %v; want %q, %q", data, answer, err, test.data, test.answer)
			}
			pieces := parser{options: whole.options}
			data, answer = nil, nil
			for i := range len(test.in) {
				d, a, err := pieces.feed(nil, []byte(test.in[i:i+1]))
				if err != nil {
					t.Fatal(err)
				}
				data, answer = append(data, d...), append(answer, a...)
			}
			if string(data) != test.data || string(answer) != test.answer {
				t.Errorf("byte by byte: got %q, answer %q; want %q, %q", data, answer, test.data, test.answer)
			}
		})
	}
}

func TestWindowOf255IsEscaped(t *testing.T) {
	p := parser{options: Options{Width: 255, Height: 511}}
	_, answer, _ := p.feed(nil, []byte("\xff\xfd\x1f"))
	if want := "\xff\xfb\x1f\xff\xfa\x1f\x00\xff\xff\x01\xff\xff\xff\xf0"; string(answer) != want {
		t.Errorf("got %q, want %q", answer, want)
	}
}

func TestWriteEscapes(t *testing.T) {
	tests := []struct{ in, want string }{
		{"show\n", "show\r\n"},
		{"show\r\n", "show\r\n"},
		{"y\r", "y\r\x00"},
		{"\ra", "\r\x00a"},
		{"\xff\xfe", "\xff\xff\xfe"},
		{"", ""},
	}
	for _, test := range tests {
		conn, _, sent := peer(t, Options{})
		if n, err := conn.Write([]byte(test.in)); n != len(test.in) || err != nil {
			t.Errorf("%q: wrote %d, %v", test.in, n, err)
		}
		if got := sent(); string(got) != test.want {
			t.Errorf("%q: sent %q, want %q", test.in, got, test.want)
		}
	}
}

func TestReadAnswersOnTheWire(t *testing.T) {
	conn, wire, sent := peer(t, Options{})
	go wire.Write([]byte("\xff\xfb\x01\xff\xfd\x18login: "))
	buf := make([]byte, 64)
	n, err := conn.Read(buf)
	if err != nil || string(buf[:n]) != "login: " {
		t.Fatalf("got %q, %v", buf[:n], err)
	}
	if !conn.Echoes() {
		t.Error("the peer's echo was not noticed")
	}
	if got, want := string(sent()), "\xff\xfd\x01\xff\xfb\x18"; got != want {
		t.Errorf("sent %q, want %q", got, want)
	}
}

func TestFloodEnds(t *testing.T) {
	tests := []struct {
		name string
		in   []byte
		want error
	}{
		{"options", bytes.Repeat([]byte("\xff\xfb\x01\xff\xfc\x01"), 10000), ErrFlood},
		{"refused options", bytes.Repeat([]byte("\xff\xfb\x22"), 10000), ErrFlood},
		{"terminal types", append([]byte("\xff\xfd\x18"), bytes.Repeat([]byte("\xff\xfa\x18\x01\xff\xf0"), 10000)...), ErrFlood},
		{"endless suboption", append([]byte("\xff\xfa\x18"), make([]byte, 1<<20)...), ErrSubnegotiation},
		{"endless suboption of IACs", append([]byte("\xff\xfa\x18"), bytes.Repeat([]byte{iac}, 1<<20)...), ErrSubnegotiation},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			conn, wire, _ := peer(t, Options{})
			go wire.Write(test.in)
			_, err := conn.Read(make([]byte, 512))
			if !errors.Is(err, test.want) {
				t.Fatalf("got %v, want %v", err, test.want)
			}
			if _, err := conn.Read(make([]byte, 512)); !errors.Is(err, test.want) {
				t.Errorf("a second read got %v", err)
			}
		})
	}
}

// FuzzParser demands that no stream breaks the parser, that its output does
// not depend on how the stream was cut, and that it never says more than its
// budget.
func FuzzParser(f *testing.F) {
	f.Add([]byte("\xff\xfd\x18\xff\xfa\x18\x01\xff\xf0login: \xff\xffx\r\x00y"), 3)
	f.Add([]byte("\xff\xfd\x1f\xff\xfb\x01\xff\xfa\x55\xff"), 1)
	f.Fuzz(func(t *testing.T, stream []byte, cut int) {
		o := Options{Terminal: DefaultTerminal, Width: DefaultWidth, Height: DefaultHeight}
		whole := parser{options: o}
		data, answer, err := whole.feed(nil, stream)
		if len(data) > len(stream) {
			t.Fatalf("%d bytes became %d", len(stream), len(data))
		}
		if limit := maxAnswers*16 + 64; len(answer) > limit {
			t.Fatalf("answered %d bytes", len(answer))
		}
		if err != nil {
			return
		}
		if cut < 0 || cut > len(stream) {
			cut = len(stream) / 2
		}
		parts := parser{options: o}
		d1, a1, _ := parts.feed(nil, stream[:cut])
		d2, a2, _ := parts.feed(nil, stream[cut:])
		if !bytes.Equal(append(d1, d2...), data) || !bytes.Equal(append(a1, a2...), answer) {
			t.Fatal("the result depends on how the stream was cut")
		}
	})
}
