package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode"

	"usm-satellite/jobs"
)

// printer writes answers for people, or as JSON lines. What a device says is
// data: its control characters do not reach the terminal.
type printer struct {
	out  *bufio.Writer
	json bool
}

func newPrinter(out io.Writer, asJSON bool) *printer {
	return &printer{bufio.NewWriter(out), asJSON}
}

func (p *printer) Flush() error { return p.out.Flush() }

// Result writes the answer to a job.
func (p *printer) Result(req request, result *jobs.Result, body []byte) {
	if p.json {
		p.line(body)
		return
	}
	fmt.Fprintf(p.out, "%s  %s %s  %d ms%s\n", oneLine(string(result.Status)), oneLine(req.action), oneLine(req.target), result.RunMS, origin(result))
	if result.Error != nil {
		fmt.Fprintf(p.out, "  %s: %s (stage %s)\n", oneLine(string(result.Error.Code)), oneLine(result.Error.Message), oneLine(string(result.Error.Stage)))
	}
	for _, warning := range result.Warnings {
		fmt.Fprintf(p.out, "  warning: %s\n", oneLine(warning))
	}
	if result.Truncated {
		fmt.Fprintln(p.out, "  cut at a limit of the job")
	}
	p.data(req.action, result.Data)
}

func origin(result *jobs.Result) string {
	text := ""
	if result.Transport != "" {
		text = "  by " + oneLine(result.Transport)
	}
	if result.SatelliteID != "" {
		text += "  satellite " + oneLine(result.SatelliteID)
	}
	if result.FromStore {
		text += "  (kept answer)"
	}
	return text
}

// Part writes a part of a streamed result.
func (p *printer) Part(req request, body []byte) {
	if p.json {
		p.line(body)
		return
	}
	var part struct {
		Data json.RawMessage `json:"data"`
	}
	if json.Unmarshal(body, &part) == nil {
		p.data(req.action, part.Data)
	}
}

// Missing writes that a job has no answer.
func (p *printer) Missing(req request, code, message string) {
	if p.json {
		p.line(mustJSON(map[string]any{
			"job_id": req.id, "action": req.action, "status": code,
			"error": map[string]any{"code": code, "message": message},
		}))
		return
	}
	fmt.Fprintf(p.out, "%s  %s %s\n  %s\n", code, oneLine(req.action), oneLine(req.target), message)
}

func (p *printer) line(body []byte) {
	var compact bytes.Buffer
	if json.Compact(&compact, body) != nil {
		compact.Reset()
	}
	compact.WriteByte('\n')
	_, _ = p.out.Write(compact.Bytes()) // Flush reports the error
}

// data writes what an action found, in the form that suits it.
func (p *printer) data(action string, data json.RawMessage) {
	if len(data) == 0 || string(data) == "null" {
		return
	}
	shapes := map[string]func(json.RawMessage) bool{
		"icmp.ping": p.ping, "tcp.connect": p.connect,
		"snmp.get": p.varbinds, "snmp.walk": p.varbinds, "snmp.set": p.varbinds, "snmp.table": p.table,
		"cli.run": p.steps, "cli.configure": p.steps, "ssh.exec": p.output, "config.backup": p.config,
	}
	if shape, ok := shapes[action]; ok && shape(data) {
		return
	}
	var indented bytes.Buffer
	if json.Indent(&indented, data, "  ", "  ") == nil {
		p.text(indented.String())
	}
}

func (p *printer) ping(data json.RawMessage) bool {
	var ping struct {
		Sent     int     `json:"sent"`
		Received int     `json:"received"`
		Loss     float64 `json:"loss_pct"`
		RTT      struct {
			Min float64 `json:"min"`
			Avg float64 `json:"avg"`
			Max float64 `json:"max"`
		} `json:"rtt_ms"`
	}
	if json.Unmarshal(data, &ping) != nil {
		return false
	}
	fmt.Fprintf(p.out, "  %d sent, %d received, %.4g %% lost", ping.Sent, ping.Received, ping.Loss)
	if ping.Received > 0 {
		fmt.Fprintf(p.out, "; round trip %.3g ms, %.3g to %.3g", ping.RTT.Avg, ping.RTT.Min, ping.RTT.Max)
	}
	fmt.Fprintln(p.out)
	return true
}

func (p *printer) connect(data json.RawMessage) bool {
	var connect struct {
		MS *float64 `json:"connect_ms"`
	}
	if json.Unmarshal(data, &connect) != nil || connect.MS == nil {
		return false
	}
	fmt.Fprintf(p.out, "  connected in %.3g ms\n", *connect.MS)
	return true
}

type varbind struct {
	OID   string          `json:"oid"`
	Type  string          `json:"type"`
	Value json.RawMessage `json:"value"`
	Hex   string          `json:"hex"`
}

// String returns the value as people read it: text where it is text, else the
// bytes in hexadecimal.
func (v varbind) String() string {
	var text string
	switch {
	case len(v.Value) == 0 || string(v.Value) == "null":
		if v.Hex != "" {
			return "0x" + oneLine(v.Hex)
		}
		return ""
	case json.Unmarshal(v.Value, &text) == nil:
		return oneLine(text)
	default:
		return oneLine(string(v.Value))
	}
}

func (p *printer) varbinds(data json.RawMessage) bool {
	var found struct {
		Varbinds []varbind `json:"varbinds"`
	}
	if json.Unmarshal(data, &found) != nil || found.Varbinds == nil {
		return false
	}
	table := p.tabs()
	for _, v := range found.Varbinds {
		fmt.Fprintf(table, "  %s\t%s\t%s\n", oneLine(v.OID), oneLine(v.Type), v)
	}
	return table.Flush() == nil
}

func (p *printer) table(data json.RawMessage) bool {
	var found struct {
		Rows []struct {
			Index  json.RawMessage            `json:"index"`
			Values map[string]json.RawMessage `json:"values"`
		} `json:"rows"`
	}
	if json.Unmarshal(data, &found) != nil || found.Rows == nil {
		return false
	}
	columns := map[string]bool{}
	for _, row := range found.Rows {
		for oid := range row.Values {
			columns[oid] = true
		}
	}
	oids := sortedOIDs(columns)
	table := p.tabs()
	fmt.Fprint(table, "  index")
	for _, oid := range oids {
		fmt.Fprintf(table, "\t%s", oneLine(oid))
	}
	fmt.Fprintln(table)
	for _, row := range found.Rows {
		fmt.Fprintf(table, "  %s", cell(row.Index))
		for _, oid := range oids {
			fmt.Fprintf(table, "\t%s", cell(row.Values[oid]))
		}
		fmt.Fprintln(table)
	}
	return table.Flush() == nil
}

// cell prints a value of a table: a varbind, a text or a number.
func cell(raw json.RawMessage) string {
	var v varbind
	if json.Unmarshal(raw, &v) == nil {
		return v.String()
	}
	return varbind{Value: raw}.String()
}

func (p *printer) steps(data json.RawMessage) bool {
	var found struct {
		Steps []struct {
			Command string `json:"command"`
			Output  string `json:"output"`
		} `json:"steps"`
	}
	if json.Unmarshal(data, &found) != nil || found.Steps == nil {
		return false
	}
	for _, step := range found.Steps {
		fmt.Fprintf(p.out, "  > %s\n", oneLine(step.Command))
		if output := strings.TrimRight(step.Output, "\r\n"); output != "" {
			p.text("    " + strings.ReplaceAll(output, "\n", "\n    "))
		}
	}
	return true
}

func (p *printer) output(data json.RawMessage) bool {
	var found struct {
		Stdout string `json:"stdout"`
		Stderr string `json:"stderr"`
		Exit   *int   `json:"exit_code"`
	}
	if json.Unmarshal(data, &found) != nil || found.Exit == nil {
		return false
	}
	for _, stream := range []string{found.Stdout, found.Stderr} {
		if stream = strings.TrimRight(stream, "\r\n"); stream != "" {
			p.text("  " + strings.ReplaceAll(stream, "\n", "\n  "))
		}
	}
	fmt.Fprintf(p.out, "  exit code %d\n", *found.Exit)
	return true
}

func (p *printer) config(data json.RawMessage) bool {
	var found struct {
		Config *string `json:"config"`
		SHA256 string  `json:"sha256"`
	}
	if json.Unmarshal(data, &found) != nil || found.Config == nil {
		return false
	}
	p.text(*found.Config)
	fmt.Fprintf(p.out, "  sha256 %s\n", oneLine(found.SHA256))
	return true
}

func (p *printer) tabs() *tabwriter.Writer {
	return tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
}

func (p *printer) text(text string) {
	for line := range strings.Lines(text) {
		fmt.Fprintln(p.out, oneLine(strings.TrimRight(line, "\r\n")))
	}
}

// oneLine makes text harmless on a terminal.
func oneLine(text string) string {
	var out strings.Builder
	for _, r := range text {
		switch {
		case r == '\t':
			out.WriteByte(' ')
		case unicode.IsPrint(r):
			out.WriteRune(r)
		default:
			fmt.Fprintf(&out, `\x%02x`, r)
		}
	}
	return out.String()
}
