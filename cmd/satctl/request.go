package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"strings"
	"time"

	"usm-satellite/jobs"
)

// request is a job on its way: the body as it is sent, and what satctl itself
// must know of it.
type request struct {
	body   []byte
	id     string
	action string
	target string
	limit  time.Duration // of the run
}

// jobFlags is a job as the options describe it. With JSON lines they are the
// defaults of each line.
type jobFlags struct {
	action, target, deviceID string
	port                     int
	params                   listFlag
	community                string
	ref                      string
	credentialsFile          string
	timeout                  time.Duration
	deadline                 string
	class                    string
	idempotencyKey           string
	metadata                 string
	stream                   bool
}

// fields returns the body of the job, field by field; what was not given is
// not there.
func (f *jobFlags) fields(now time.Time) (map[string]any, error) {
	body := map[string]any{"schema": jobs.SchemaVersion}
	for name, value := range map[string]string{"action": f.action, "class": f.class, "idempotency_key": f.idempotencyKey} {
		if value != "" {
			body[name] = value
		}
	}
	if target := f.targetFields(); len(target) > 0 {
		body["target"] = target
	}
	if f.timeout < 0 || f.timeout > 0 && f.timeout < time.Millisecond {
		return nil, usagef("--timeout must be at least 1ms")
	}
	if f.timeout > 0 {
		body["timeout_ms"] = f.timeout.Milliseconds()
	}
	if f.stream {
		body["stream"] = true
	}
	for name, read := range map[string]func() (any, error){
		"params":      f.paramFields,
		"credentials": f.credentials,
		"deadline":    func() (any, error) { return parseDeadline(f.deadline, now) },
		"metadata":    f.metadataField,
	} {
		value, err := read()
		if err != nil {
			return nil, err
		}
		if value != nil {
			body[name] = value
		}
	}
	return body, nil
}

func (f *jobFlags) targetFields() map[string]any {
	target := map[string]any{}
	if f.target != "" {
		target["address"] = f.target
	}
	if f.port != 0 {
		target["port"] = f.port
	}
	if f.deviceID != "" {
		target["device_id"] = f.deviceID
	}
	return target
}

func (f *jobFlags) metadataField() (any, error) {
	if f.metadata == "" {
		return nil, nil
	}
	if !json.Valid([]byte(f.metadata)) {
		return nil, usagef("--metadata must be JSON")
	}
	return json.RawMessage(f.metadata), nil
}

// parseDeadline takes a moment, or a time from now.
func parseDeadline(text string, now time.Time) (any, error) {
	if text == "" {
		return nil, nil
	}
	if wait, err := time.ParseDuration(text); err == nil {
		return jobs.Time{Time: now.Add(wait)}, nil
	}
	moment, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return nil, usagef("--deadline must be a time from now, as 90s, or a moment, as 2026-01-31T12:00:00Z")
	}
	return jobs.Time{Time: moment}, nil
}

// paramFields reads --params: one JSON object, or name=value pairs. A name
// given twice, and the names of the contract that are lists, make a list.
func (f *jobFlags) paramFields() (any, error) {
	if len(f.params) == 0 {
		return nil, nil
	}
	if len(f.params) == 1 && strings.HasPrefix(strings.TrimSpace(f.params[0]), "{") {
		if !json.Valid([]byte(f.params[0])) {
			return nil, usagef("--params begins as a JSON object but is none")
		}
		return json.RawMessage(f.params[0]), nil
	}
	params := map[string]any{}
	for _, pair := range f.params {
		name, text, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return nil, usagef("--params takes a JSON object or name=value, not %q", pair)
		}
		value := paramValue(name, text)
		switch before := params[name].(type) {
		case nil:
			params[name] = value
		case []any:
			if more, ok := value.([]any); ok {
				params[name] = append(before, more...)
			} else {
				params[name] = append(before, value)
			}
		default:
			params[name] = []any{before, value}
		}
	}
	return params, nil
}

// paramValue reads what is JSON beyond doubt (objects, lists, whole numbers,
// true, false, quoted strings) as JSON, and the rest as text: an OID is no number.
func paramValue(name, text string) any {
	whole := strings.Trim(text, "0123456789") == "" || strings.Trim(strings.TrimPrefix(text, "-"), "0123456789") == ""
	typed := text != "" && (strings.ContainsRune(`{["`, rune(text[0])) || whole || text == "true" || text == "false")
	var value any = text
	if typed && json.Valid([]byte(text)) {
		value = json.RawMessage(text)
	}
	switch name {
	case "oids", "roots", "columns", "commands", "sentences":
		if !strings.HasPrefix(text, "[") {
			return []any{text}
		}
		var list []any
		if json.Unmarshal([]byte(text), &list) == nil {
			return list
		}
	}
	return value
}

// credentials reads the options that say how to log in to the equipment. No
// error quotes one.
func (f *jobFlags) credentials() (any, error) {
	var list []json.RawMessage
	if f.credentialsFile != "" {
		content, err := os.ReadFile(f.credentialsFile)
		if err != nil {
			return nil, usagef("--credentials-file: %w", err)
		}
		content = bytes.TrimSpace(content)
		if bytes.HasPrefix(content, []byte("{")) {
			content = fmt.Appendf(nil, "[%s]", content)
		}
		if json.Unmarshal(content, &list) != nil {
			return nil, usagef("--credentials-file: %s must hold one credential, or a list of them, in JSON", f.credentialsFile)
		}
	}
	if f.ref != "" {
		list = append(list, mustJSON(map[string]any{"ref": f.ref}))
	}
	if f.community != "" {
		list = append(list, mustJSON(map[string]any{"snmp": map[string]any{"version": "2c", "community": f.community}}))
	}
	if list == nil {
		return nil, nil
	}
	return list, nil
}

// mustJSON encodes what cannot fail to encode.
func mustJSON(v any) json.RawMessage {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return data
}

// requestOf completes a job with what it lacks and checks it as a satellite
// would, so that a wrong one is not sent at all.
func requestOf(fields map[string]any) (request, error) {
	if _, ok := fields["job_id"]; !ok {
		fields["job_id"] = newID()
	}
	body, err := json.Marshal(fields)
	if err != nil {
		return request{}, fmt.Errorf("encode the job: %w", err)
	}
	job, fault := jobs.Decode(body)
	if fault != nil {
		return request{}, usagef("%s", fault.Message)
	}
	return request{body: body, id: job.ID, action: job.Action, target: job.Target.Address, limit: job.Timeout}, nil
}

// requestOfLine reads one JSON line; fields that it lacks come from the options.
func requestOfLine(line []byte, defaults map[string]any) (request, error) {
	var given map[string]json.RawMessage
	if err := json.Unmarshal(line, &given); err != nil {
		return request{}, usagef("is no JSON object")
	}
	fields := maps.Clone(defaults)
	for name, value := range given {
		fields[name] = value
	}
	return requestOf(fields)
}

func newID() string {
	var random [12]byte
	_, _ = rand.Read(random[:]) // never fails: crypto/rand
	return "satctl-" + hex.EncodeToString(random[:])
}
