package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode"

	"usm-satellite/broker"
	"usm-satellite/jobs"
)

// harmless says whether text can be shown on a terminal.
func harmless(text string) bool {
	return strings.IndexFunc(text, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) < 0
}

// FuzzPrint demands that nothing in a result reaches the terminal as anything
// but text.
func FuzzPrint(f *testing.F) {
	for _, data := range []string{
		`{"sent":3,"received":2,"rtt_ms":{"avg":0.25}}`, `{"varbinds":[{"oid":"1","type":"\u001b[2J","value":"\u009b1m","hex":"1b"}]}`,
		`{"rows":[{"index":"\r","values":{"1.9":{"value":"\t"}}}]}`, `{"steps":[{"command":"\u001b","output":"a\r\n\u0007"}]}`,
		`{"stdout":"\u001b]0;x","exit_code":0}`, `{"config":"\u202e","sha256":"\u001b"}`,
	} {
		for _, action := range []string{"icmp.ping", "snmp.get", "snmp.table", "cli.run", "ssh.exec", "config.backup", "other"} {
			f.Add(action, []byte(`{"status":"ok","warnings":["\u001bc"],"data":`+data+`}`))
		}
	}
	f.Fuzz(func(t *testing.T, action string, body []byte) {
		var result jobs.Result
		if json.Unmarshal(body, &result) != nil {
			return
		}
		var out bytes.Buffer
		p := newPrinter(&out, false)
		p.Result(request{action: action, target: "192.0.2.1"}, &result, body)
		p.Part(request{action: action}, body)
		if err := p.Flush(); err != nil {
			t.Fatal(err)
		}
		if !harmless(out.String()) {
			t.Fatalf("%q reaches the terminal", out.String())
		}
	})
}

// FuzzNews demands the same of what satellites say of themselves.
func FuzzNews(f *testing.F) {
	f.Add("heartbeat", []byte(`{"satellite_id":"7","replica":"\u001b[2J","uptime_s":9223372036854775807,"jobs":{"results":{"ok":1}},"warnings":["\r"]}`))
	f.Add("goodbye", []byte(`{}`))
	f.Fuzz(func(t *testing.T, kind string, body []byte) {
		seen, now := fleet{}, time.Unix(1e9, 0)
		news := broker.CoreNews{Kind: kind, Body: body}
		seen.note(news, now)
		if line := newsLine(news); !json.Valid(line) {
			t.Fatalf("%q is no JSON", line)
		}
		var out bytes.Buffer
		seen.print(&out, now)
		if !harmless(out.String()) {
			t.Fatalf("%q reaches the terminal", out.String())
		}
		if err := seen.verdict(now); err != nil && !harmless(err.Error()) {
			t.Fatalf("%q reaches the terminal", err)
		}
	})
}
