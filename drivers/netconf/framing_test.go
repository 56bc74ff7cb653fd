package netconf

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// oneWay makes a framer that only reads or only writes.
func reader(stream string, chunked bool, limit int) *framer {
	f := newFramer(struct {
		io.Reader
		io.Writer
	}{strings.NewReader(stream), io.Discard}, limit)
	f.chunked = chunked
	return f
}

func TestReadMessages(t *testing.T) {
	tests := []struct {
		name    string
		stream  string
		chunked bool
		want    []string
		err     error
	}{
		{"1.0", "<a/>]]>]]><b>]]></b>]]>]]>", false, []string{"<a/>", "<b>]]></b>"}, io.EOF},
		{"1.0 empty", "]]>]]>", false, []string{""}, io.EOF},
		{"1.0 cut", "<a/>]]>]]", false, nil, io.EOF},
		{"1.0 too long", strings.Repeat("x", 200) + "]]>]]>", false, nil, errTooLong},
		{"1.1 of RFC 6242", "\n#4\n<rpc\n#18\n message-id=\"102\"\n\n##\n", true, []string{"<rpc message-id=\"102\"\n"}, io.EOF},
		{"1.1 two", "\n#1\na\n##\n\n#2\nbc\n##\n", true, []string{"a", "bc"}, io.EOF},
		{"1.1 no chunk", "\n##\n", true, nil, errFraming},
		{"1.1 size 0", "\n#0\n\n##\n", true, nil, errFraming},
		{"1.1 leading zero", "\n#01\na\n##\n", true, nil, errFraming},
		{"1.1 no number", "\n#a\n", true, nil, errFraming},
		{"1.1 number without end", "\n#" + strings.Repeat("9", 100), true, nil, errFraming},
		{"1.1 too long", "\n#101\n", true, nil, errTooLong},
		{"1.1 too long in all", "\n#99\n" + strings.Repeat("x", 99) + "\n#2\nxx\n##\n", true, nil, errTooLong},
		{"1.1 cut", "\n#10\nabc", true, nil, io.ErrUnexpectedEOF},
		{"1.1 with 1.0's end", "<a/>]]>]]>", true, nil, errFraming},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := reader(test.stream, test.chunked, 100)
			for i := 0; ; i++ {
				got, err := f.read()
				if err != nil {
					if !errors.Is(err, test.err) || i != len(test.want) {
						t.Errorf("message %d: got %v, want %v after %d", i+1, err, test.err, len(test.want))
					}
					return
				}
				if i >= len(test.want) || string(got) != test.want[i] {
					t.Fatalf("message %d: got %q, want %q", i+1, got, test.want)
				}
			}
		})
	}
}

// FuzzFraming demands that no stream breaks the framing, that the messages do
// not depend on how the stream was cut, that none is over the limit, and that
// what one framer writes another reads.
func FuzzFraming(f *testing.F) {
	f.Add("\n#4\n<rpc\n#18\n message-id=\"102\"\n\n##\n", true)
	f.Add("<a/>]]>]]><b/>]]>]]>", false)
	f.Add("\n#4294967295\nx", true)
	f.Fuzz(func(t *testing.T, stream string, chunked bool) {
		const limit = 1000
		whole, pieces := reader(stream, chunked, limit), reader("", chunked, limit)
		pieces.r.Reset(iotest.OneByteReader(strings.NewReader(stream)))
		for {
			a, errA := whole.read()
			b, errB := pieces.read()
			if !bytes.Equal(a, b) || (errA == nil) != (errB == nil) {
				t.Fatalf("whole gives %q, %v; byte by byte %q, %v", a, errA, b, errB)
			}
			if errA != nil {
				return
			}
			if len(a) > limit {
				t.Fatalf("a message of %d bytes passed the limit", len(a))
			}
			again := roundTrip(t, a, chunked)
			if !bytes.Equal(again, a) && len(a) > 0 {
				t.Fatalf("%q came back as %q", a, again)
			}
		}
	})
}

func roundTrip(t *testing.T, message []byte, chunked bool) []byte {
	t.Helper()
	var wire bytes.Buffer
	w := newFramer(&wire, 2000)
	w.chunked = chunked
	if err := w.write(message); err != nil {
		t.Fatal(err)
	}
	got, err := w.read()
	if err != nil && len(message) > 0 {
		t.Fatalf("reading what was written: %v", err)
	}
	return got
}

func TestOperationNames(t *testing.T) {
	tests := []struct {
		in, name string
		err      error
	}{
		{"<get/>", "get", nil},
		{" <nc:get-config xmlns:nc='x'><source><running/></source></nc:get-config>\n", "get-config", nil},
		{"<get/><edit-config/>", "", errNotOne},
		{"<get/></rpc><rpc><kill-session/>", "", errNotOne},
		{"<get>", "", errNotOne},
		{"get", "", errNotOne},
		{"", "", errNotOne},
		{"<get/>]]>]]><kill-session/>", "", errEnd},
		{"<get><![CDATA[]]>]]></get>", "", errEnd},
		{"<!DOCTYPE a [<!ENTITY b 'c'>]><get/>", "", errForbidden},
		{"<?xml version='1.0'?><get/>", "", errForbidden},
		{"<rpc><get/></rpc>", "", errRPC},
		{strings.Repeat("<a>", 1000), "", errDeep},
		{"<get>&undefined;</get>", "", errNotOne},
	}
	for _, test := range tests {
		name, err := operationName(test.in)
		if name != test.name || !errors.Is(err, test.err) {
			t.Errorf("%q: got %q, %v; want %q, %v", test.in, name, err, test.name, test.err)
		}
	}
}
