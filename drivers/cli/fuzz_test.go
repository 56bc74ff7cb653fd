package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzClean demands that no line breaks the cleaner, that what it gives is
// printable, and that it does not grow beyond where the cursor can go.
func FuzzClean(f *testing.F) {
	f.Add([]byte("\x1b[1;31mred\x1b[0m \b\b--More--\r   \r"))
	f.Add([]byte("\x1b]0;title\x07\x1b[99999C\x1b[Kx"))
	f.Fuzz(func(t *testing.T, line []byte) {
		if len(line) > 4096 {
			return
		}
		var c cleaner
		got := c.clean(bytes.Clone(line))
		if len(got) > maxColumns+len(line) {
			t.Fatalf("%d bytes became %d", len(line), len(got))
		}
		if i := bytes.IndexFunc(got, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }); i >= 0 {
			t.Fatalf("%q has a control character", got)
		}
		if s := text(got); !utf8.ValidString(s) {
			t.Fatalf("%q is no UTF-8", s)
		}
	})
}

// FuzzReceive demands that no stream breaks the engine, that the lines do not
// depend on how the stream was cut, and that an unfinished line stays bounded.
func FuzzReceive(f *testing.F) {
	known, err := loadPlatforms()
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("sw1#show version\r\nVersion 1\r\n --More-- \b\b\b\b\b\b\b\b\b\bnext\r\nsw1#"), 7)
	f.Add([]byte("<HUAWEI>display\r\n  ---- More ----\x1b[42D"), 3)
	f.Fuzz(func(t *testing.T, stream []byte, cut int) {
		feed := func(p *platform, pieces ...[]byte) (lines []string) {
			s := &session{platform: p, prompt: "sw1#", host: "sw1"}
			for _, piece := range pieces {
				if err := s.take(piece, func(line []byte) error {
					lines = append(lines, string(line))
					return nil
				}); err != nil {
					t.Fatal(err)
				}
				if len(s.tail) > maxTail {
					t.Fatalf("%d bytes wait for the end of a line", len(s.tail))
				}
				s.look([]question{{re: p.username}, {re: p.password}})
			}
			return lines
		}
		if cut < 0 || cut > len(stream) {
			cut = len(stream) / 2
		}
		p := known["cisco_ios"]
		whole, parts := feed(p, stream), feed(p, stream[:cut], stream[cut:])
		if len(stream) < maxTail && strings.Join(whole, "\n") != strings.Join(parts, "\n") {
			t.Fatalf("whole %q, in parts %q", whole, parts)
		}
	})
}

// FuzzPlatform demands that no definition in a job breaks the compiler.
func FuzzPlatform(f *testing.F) {
	known, err := loadPlatforms()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(`{"prompt":"^x#$","pager":"more","login":{"username":"u"},"confirm":[{"pattern":"a","answer":"b"}]}`)
	f.Add(`{"extends":"frr","disable_paging":"x"}`)
	f.Fuzz(func(t *testing.T, definition string) {
		if !json.Valid([]byte(definition)) {
			return
		}
		p, fault := known.parse([]byte(strings.TrimSpace(definition)))
		if (p == nil) == (fault == nil) {
			t.Fatalf("got %v and %v", p, fault)
		}
	})
}
