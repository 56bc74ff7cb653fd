package main

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParams(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		given []string
		want  string
	}{
		"object":               {[]string{`{"count": 5}`}, `{"count":5}`},
		"number, flag, text":   {[]string{"count=5", "fast=true", "name=example.net", "neg=-3"}, `{"count":5,"fast":true,"name":"example.net","neg":-3}`},
		"an OID is no number":  {[]string{"root=1.3"}, `{"root":"1.3"}`},
		"one OID is a list":    {[]string{"oids=1.3"}, `{"oids":["1.3"]}`},
		"repeated is a list":   {[]string{"oids=1.3", "oids=1.4", "x=a", "x=b"}, `{"oids":["1.3","1.4"],"x":["a","b"]}`},
		"a list in JSON":       {[]string{`oids=["1.3","1.4"]`, "oids=1.5"}, `{"oids":["1.3","1.4","1.5"]}`},
		"a command with comma": {[]string{"commands=show x, y"}, `{"commands":["show x, y"]}`},
		"a quoted number":      {[]string{`body="5"`}, `{"body":"5"}`},
		"equals in the value":  {[]string{"url=/a?b=c"}, `{"url":"/a?b=c"}`},
		"digits too many":      {[]string{"n=18446744073709551615"}, `{"n":18446744073709551615}`},
		"leading zero is text": {[]string{"n=007"}, `{"n":"007"}`},
	} {
		f := jobFlags{params: tc.given}
		value, err := f.paramFields()
		if got, _ := json.Marshal(value); err != nil || string(got) != tc.want {
			t.Errorf("%s: got %s, %v; want %s", name, got, err, tc.want)
		}
	}
	for _, bad := range []string{"count", "=5", `{"count":`} {
		f := jobFlags{params: []string{bad}}
		if _, err := f.paramFields(); err == nil {
			t.Errorf("%q passed", bad)
		}
	}
}

func TestCredentialsFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "c.json")
	for content, want := range map[string]string{
		`{"ref":"a"}`:                  `[{"ref":"a"},{"ref":"lab"}]`,
		"\n [{\"ref\":\"a\"},{}]\n":    `[{"ref":"a"},{},{"ref":"lab"}]`,
		`{"login":"canary"`:            "",
		`"canary"`:                     "",
		"community: canary-5ecret\n\n": "",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		f := jobFlags{credentialsFile: path, ref: "lab"}
		value, err := f.credentials()
		if want == "" {
			if err == nil || strings.Contains(err.Error(), "canary") {
				t.Errorf("%s: got %v", content, err)
			}
			continue
		}
		if got, _ := json.Marshal(value); err != nil || string(got) != want {
			t.Errorf("%s: got %s, %v; want %s", content, got, err, want)
		}
	}
}

func TestDeadline(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]string{
		"90s":                       `"2026-01-31T12:01:30.000Z"`,
		"2026-02-01T00:00:00+02:00": `"2026-01-31T22:00:00.000Z"`,
		"":                          `null`,
	} {
		value, err := parseDeadline(text, now)
		if got, _ := json.Marshal(value); err != nil || string(got) != want {
			t.Errorf("%s: got %s, %v", text, got, err)
		}
	}
	if _, err := parseDeadline("tomorrow", now); err == nil {
		t.Error("tomorrow passed")
	}
}

func TestLinesTakeWhatTheyLackFromTheOptions(t *testing.T) {
	t.Parallel()
	defaults := map[string]any{"schema": 1, "action": "icmp.ping", "timeout_ms": 2000}
	next := lines(strings.NewReader(`
		{"job_id": "a", "target": {"address": "192.0.2.1"}, "metadata": {"n": 18446744073709551615}}

		{"job_id": "b", "action": "tcp.connect", "timeout_ms": 5}
		{"job_id": "c", "credentials": [{"snmp": {"community": 1, "x": "canary"}}]}`), defaults)
	a, err := next()
	if err != nil || a.id != "a" || a.action != "icmp.ping" || a.target != "192.0.2.1" || a.limit != 2*time.Second {
		t.Errorf("first: %+v, %v", a, err)
	}
	if !strings.Contains(string(a.body), "18446744073709551615") {
		t.Errorf("the metadata changed: %s", a.body)
	}
	b, err := next()
	if err != nil || b.action != "tcp.connect" || b.limit != 5*time.Millisecond {
		t.Errorf("second: %+v, %v", b, err)
	}
	if _, err = next(); err == nil || !strings.Contains(err.Error(), "line 5") || strings.Contains(err.Error(), "canary") {
		t.Errorf("third: %v", err)
	}
	if _, err := lines(strings.NewReader("\n \n"), defaults)(); err != io.EOF { //nolint:errorlint // io.EOF itself is the contract of source
		t.Errorf("nothing: %v", err)
	}
}
