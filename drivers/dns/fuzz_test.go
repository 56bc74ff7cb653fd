package dns

import (
	"encoding/json"
	"testing"

	"github.com/miekg/dns"
)

// FuzzAnswers demands that what a server says comes out as JSON within the
// limit, or not at all.
func FuzzAnswers(f *testing.F) {
	for _, record := range []string{"example.net. 60 IN A 192.0.2.1", "example.net. 60 IN TXT \"a\\\"b\" \"\\200\"", "example.net. 60 IN TYPE65280 \\# 2 0001"} {
		rr, err := dns.NewRR(record)
		if err != nil {
			f.Fatal(err)
		}
		m := new(dns.Msg).SetQuestion("example.net.", dns.TypeA)
		m.Response, m.Answer = true, []dns.RR{rr}
		packed, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed)
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		var m dns.Msg
		if m.Unpack(packet) != nil {
			return
		}
		const limit = 2000
		found, cut := answers(m.Answer, limit)
		if len(found) != len(m.Answer) && !cut {
			t.Fatalf("%d of %d records, and nothing says that some are missing", len(found), len(m.Answer))
		}
		size := 0
		for _, a := range found {
			size += len(a.Name) + len(a.Value)
		}
		if size > limit {
			t.Fatalf("%d bytes where %d are allowed", size, limit)
		}
		if _, err := json.Marshal(data{RCode: rcode(m.Rcode), Answers: found}); err != nil {
			t.Fatal(err)
		}
	})
}
