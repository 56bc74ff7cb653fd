// Package schema_test keeps the published contract and the code in step: the
// schema files are what developers of a core read, jobs is what decides.
package schema_test

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"usm-satellite/drivers"
	"usm-satellite/jobs"
)

func registry(t *testing.T) jobs.Registry {
	t.Helper()
	all, closeAll := drivers.All(drivers.Options{Network: &jobs.Network{Policy: &jobs.Policy{}}})
	t.Cleanup(closeAll)
	return all
}

func compile(t *testing.T, file string) *jsonschema.Schema {
	t.Helper()
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	schema, err := compiler.Compile(file)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return schema
}

func document(t *testing.T, text []byte) any {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// lookup follows keys into decoded JSON.
func lookup(t *testing.T, doc any, keys ...string) any {
	t.Helper()
	for _, key := range keys {
		object, ok := doc.(map[string]any)
		if !ok || object[key] == nil {
			t.Fatalf("%s is missing in %v", key, keys)
		}
		doc = object[key]
	}
	return doc
}

func texts(t *testing.T, list any) []string {
	t.Helper()
	var all []string
	for _, item := range list.([]any) {
		all = append(all, item.(string))
	}
	slices.Sort(all)
	return all
}

func TestActionsAreThoseOfTheSatellite(t *testing.T) {
	actions := slices.Sorted(maps.Keys(registry(t)))
	if listed := texts(t, lookup(t, document(t, read(t, "job.schema.json")), "properties", "action", "enum")); !slices.Equal(listed, actions) {
		t.Errorf("job.schema.json lists the actions\n%v, the satellite has\n%v", listed, actions)
	}
	for _, action := range actions {
		for _, file := range []string{"job.schema.json", "result.schema.json"} {
			lookup(t, document(t, read(t, file)), "$defs", action)
		}
		for _, kind := range []string{"job", "result"} {
			if _, err := os.Stat(filepath.Join("examples", action+"."+kind+".json")); err != nil {
				t.Errorf("%s has no example of a %s", action, kind)
			}
		}
	}
}

func TestValuesAreThoseOfTheCode(t *testing.T) {
	result := document(t, read(t, "result.schema.json"))
	var statuses []string
	for _, s := range jobs.Statuses() {
		statuses = append(statuses, string(s))
	}
	slices.Sort(statuses)
	for _, c := range []struct {
		name string
		code []string
		keys []string
	}{
		{"statuses", statuses, []string{"properties", "status", "enum"}},
		{"codes", constants(t, "Code"), []string{"$defs", "error", "properties", "code", "enum"}},
		{"stages", constants(t, "Stage"), []string{"$defs", "error", "properties", "stage", "enum"}},
	} {
		if listed := texts(t, lookup(t, result, c.keys...)); !slices.Equal(listed, c.code) {
			t.Errorf("the %s in result.schema.json are\n%v, in the code\n%v", c.name, listed, c.code)
		}
	}
}

// constants returns the values of jobs' string constants of a type.
func constants(t *testing.T, typeName string) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../fault.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var values []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if ident, ok := spec.Type.(*ast.Ident); !ok || ident.Name != typeName {
			return true
		}
		for _, value := range spec.Values {
			text, err := strconv.Unquote(value.(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			values = append(values, text)
		}
		return true
	})
	if len(values) == 0 {
		t.Fatalf("no constant of type %s was found", typeName)
	}
	slices.Sort(values)
	return values
}

func TestExamples(t *testing.T) {
	all := registry(t)
	schemas := map[string]*jsonschema.Schema{"job": compile(t, "job.schema.json"), "result": compile(t, "result.schema.json")}
	files, err := filepath.Glob("examples/*.json")
	if err != nil || len(files) < 2*len(all) {
		t.Fatalf("%d examples for %d actions, %v", len(files), len(all), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			kind := strings.Split(strings.TrimSuffix(file, ".json"), ".")
			schema := schemas[kind[len(kind)-1]]
			if schema == nil {
				t.Fatal("an example is named ACTION.job.json or ACTION.result.json")
			}
			text := read(t, file)
			if err := schema.Validate(document(t, text)); err != nil {
				t.Error(err)
			}
			if schema == schemas["job"] {
				checkJob(t, all, text)
			} else {
				checkResult(t, text)
			}
		})
	}
}

func checkJob(t *testing.T, all jobs.Registry, text []byte) {
	t.Helper()
	job, fault := jobs.Decode(text)
	if fault == nil {
		_, fault = all.Judge(job)
	}
	if fault != nil {
		t.Errorf("the satellite refuses it: %v", fault)
	}
}

func checkResult(t *testing.T, text []byte) {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	var result jobs.Result
	if err := decoder.Decode(&result); err != nil {
		t.Errorf("it is no result as the satellite writes them: %v", err)
	}
}

// TestBothRefuse: what the satellite refuses the schema refuses, so that a
// developer finds it before sending; and both name the place.
func TestBothRefuse(t *testing.T) {
	all, schema := registry(t), compile(t, "job.schema.json")
	for _, c := range []struct{ what, job string }{
		{"no schema", `{"job_id": "a", "action": "icmp.ping", "target": {"address": "192.0.2.1"}}`},
		{"another schema", `{"schema": 2, "job_id": "a", "action": "icmp.ping", "target": {"address": "192.0.2.1"}}`},
		{"no job_id", `{"schema": 1, "action": "icmp.ping", "target": {"address": "192.0.2.1"}}`},
		{"a bad job_id", `{"schema": 1, "job_id": "a b", "action": "icmp.ping", "target": {"address": "192.0.2.1"}}`},
		{"an unknown action", `{"schema": 1, "job_id": "a", "action": "icmp.pong", "target": {"address": "192.0.2.1"}}`},
		{"no target", `{"schema": 1, "job_id": "a", "action": "icmp.ping"}`},
		{"no port", `{"schema": 1, "job_id": "a", "action": "tcp.connect", "target": {"address": "192.0.2.1"}}`},
		{"a port too high", `{"schema": 1, "job_id": "a", "action": "icmp.ping", "target": {"address": "192.0.2.1", "port": 65536}}`},
		{"an unknown parameter", `{"schema": 1, "job_id": "a", "action": "icmp.ping", "target": {"address": "192.0.2.1"}, "params": {"cuont": 3}}`},
		{"a parameter too large", `{"schema": 1, "job_id": "a", "action": "icmp.ping", "target": {"address": "192.0.2.1"}, "params": {"count": 1001}}`},
		{"a parameter of the wrong type", `{"schema": 1, "job_id": "a", "action": "icmp.ping", "target": {"address": "192.0.2.1"}, "params": {"count": "3"}}`},
		{"params that are a list", `{"schema": 1, "job_id": "a", "action": "icmp.ping", "target": {"address": "192.0.2.1"}, "params": [3]}`},
		{"a negative timeout", `{"schema": 1, "job_id": "a", "action": "icmp.ping", "target": {"address": "192.0.2.1"}, "timeout_ms": -1}`},
		{"a deadline that is no time", `{"schema": 1, "job_id": "a", "action": "icmp.ping", "target": {"address": "192.0.2.1"}, "deadline": "soon"}`},
		{"an unknown class", `{"schema": 1, "job_id": "a", "action": "icmp.ping", "target": {"address": "192.0.2.1"}, "class": "either"}`},
		{"no oids", `{"schema": 1, "job_id": "a", "action": "snmp.get", "target": {"address": "192.0.2.1"}}`},
		{"an OID by name", `{"schema": 1, "job_id": "a", "action": "snmp.get", "target": {"address": "192.0.2.1"}, "params": {"oids": ["sysDescr.0"]}}`},
		{"a credential without anything", `{"schema": 1, "job_id": "a", "action": "icmp.ping", "target": {"address": "192.0.2.1"}, "credentials": [{}]}`},
		{"no root", `{"schema": 1, "job_id": "a", "action": "snmp.walk", "target": {"address": "192.0.2.1"}, "params": {"max_repetitions": 5}}`},
		{"a varbind of no known type", `{"schema": 1, "job_id": "a", "action": "snmp.set", "target": {"address": "192.0.2.1"}, "params": {"varbinds": [{"oid": "1.3.6.1.2.1.1.6.0", "type": "Text", "value": "x"}]}}`},
		{"no commands", `{"schema": 1, "job_id": "a", "action": "cli.run", "target": {"address": "192.0.2.1"}, "params": {"platform": "linux"}}`},
		{"no platform", `{"schema": 1, "job_id": "a", "action": "cli.run", "target": {"address": "192.0.2.1"}, "params": {"commands": ["show"]}}`},
		{"another transport", `{"schema": 1, "job_id": "a", "action": "config.backup", "target": {"address": "192.0.2.1"}, "params": {"platform": "linux", "transport": "serial"}}`},
		{"no command", `{"schema": 1, "job_id": "a", "action": "ssh.exec", "target": {"address": "192.0.2.1"}, "params": {"command": ""}}`},
	} {
		t.Run(c.what, func(t *testing.T) {
			if err := schema.Validate(document(t, []byte(c.job))); err == nil {
				t.Error("the schema takes it")
			}
			job, fault := jobs.Decode([]byte(c.job))
			if fault == nil {
				_, fault = all.Judge(job)
			}
			if fault == nil {
				t.Error("the satellite takes it")
			}
		})
	}
}

// TestUnknownFieldsAreIgnored: a newer core may say more.
func TestUnknownFieldsAreIgnored(t *testing.T) {
	text := []byte(`{"schema": 1, "job_id": "a", "action": "icmp.ping", "target": {"address": "192.0.2.1", "rack": 4}, "priority": "high"}`)
	if err := compile(t, "job.schema.json").Validate(document(t, text)); err != nil {
		t.Error(err)
	}
	checkJob(t, registry(t), text)
}

// TestWordsForPeople: the night shift finds every status in the handbook.
func TestWordsForPeople(t *testing.T) {
	handbook := string(read(t, "../../deploy/README.md"))
	for _, status := range jobs.Statuses() {
		if !strings.Contains(handbook, "| `"+string(status)+"` |") {
			t.Errorf("deploy/README.md has no row for the status %s", status)
		}
	}
}
