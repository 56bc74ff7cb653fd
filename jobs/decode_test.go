package jobs

import (
	"context"
	"strings"
	"testing"
)

const canary = "canary-5ecret"

func TestDecodeNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, body, want string }{
		{"not JSON", `{"schema":1,`, "the job is not JSON"},
		{"a list", `[1]`, "the job must be a JSON object"},
		{"no schema", `{"job_id":"a"}`, "schema is missing"},
		{"another schema", `{"schema":9,"job_id":"a"}`, "schema 9 is not known"},
		{"no id", `{"schema":1}`, "job_id is missing"},
		{"a bad id", `{"schema":1,"job_id":"a b"}`, "job_id must be"},
		{"no action", `{"schema":1,"job_id":"a"}`, "action is missing"},
		{"ill-typed", `{"schema":1,"job_id":"a","action":"x","timeout_ms":"1"}`, "timeout_ms must be a number, not string"},
		{"negative timeout", `{"schema":1,"job_id":"a","action":"x","timeout_ms":-1}`, "timeout_ms must be more than 0"},
		{"bad deadline", `{"schema":1,"job_id":"a","action":"x","deadline":"soon"}`, "deadline must be a time"},
		{"no address", `{"schema":1,"job_id":"a","action":"x","target":{"address":"a b"}}`, "target.address must be"},
		{"bad port", `{"schema":1,"job_id":"a","action":"x","target":{"address":"a","port":70000}}`, "target.port must be"},
		{"bad class", `{"schema":1,"job_id":"a","action":"x","class":"rw"}`, "class must be"},
		{"params a list", `{"schema":1,"job_id":"a","action":"x","params":[]}`, "params must be an object"},
		{"a secret that is a number", `{"schema":1,"job_id":"a","action":"x","credentials":[{"login":{"password":5}}]}`, "credentials hold a secret"},
		{"an empty credential", `{"schema":1,"job_id":"a","action":"x","credentials":[{}]}`, "credentials hold one without"},
		{"a negative limit", `{"schema":1,"job_id":"a","action":"x","limits":{"max_rows":-1}}`, "limits.max_rows must be"},
		{"much metadata", `{"schema":1,"job_id":"a","action":"x","metadata":"` + strings.Repeat("m", 5000) + `"}`, "metadata is larger"},
		{"unknown fields", `{"schema":1,"job_id":"a","action":"x","colour":"red"}`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, fault := Decode([]byte(tt.body))
			switch {
			case tt.want == "" && fault != nil:
				t.Fatalf("got %v, want no fault", fault)
			case tt.want != "" && (fault == nil || !strings.Contains(fault.Message, tt.want)):
				t.Fatalf("got %v, want %q", fault, tt.want)
			}
		})
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	type params struct {
		Count int `json:"count"`
	}
	check := func(job *Job) *Fault { return DecodeParams(job, &params{}) }
	driver := DriverFunc(func(context.Context, *Job) (Output, error) { return Output{}, nil })
	registry := Registry{
		"read":  {Class: Read, Target: true, Check: check, Driver: driver},
		"shell": {Class: Write, Asks: true, Driver: driver},
		"set":   {Class: Write, Driver: driver},
	}
	for _, tt := range []struct {
		name, body, want string
		class            Class
	}{
		{"unknown", `"action":"x"`, `the action "x" is not known`, ""},
		{"no target", `"action":"read"`, "target.address is missing", ""},
		{"unknown parameter", `"action":"read","target":{"address":"a"},"params":{"size":1}`, "params.size is no parameter", ""},
		{"ill-typed parameter", `"action":"read","target":{"address":"a"},"params":{"count":"1"}`, "params.count must be a number", ""},
		{"a read", `"action":"read","target":{"address":"a"}`, "", Read},
		{"a read may be called a write", `"action":"read","class":"write","target":{"address":"a"}`, "", Write},
		{"a shell that only reads", `"action":"shell","class":"read"`, "", Read},
		{"a set is a write whatever it says", `"action":"set","class":"read"`, "", Write},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			job, fault := Decode([]byte(`{"schema":1,"job_id":"a",` + tt.body + `}`))
			if fault != nil {
				t.Fatal(fault)
			}
			_, fault = registry.Judge(job)
			if tt.want != "" {
				if fault == nil || !strings.Contains(fault.Message, tt.want) {
					t.Fatalf("got %v, want %q", fault, tt.want)
				}
				return
			}
			if fault != nil || job.Class != tt.class {
				t.Fatalf("got class %q, fault %v, want %q", job.Class, fault, tt.class)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"schema":1,"job_id":"a","action":"snmp.get","target":{"address":"192.0.2.1"},"credentials":[{"snmp":{"version":"2c","community":"` + canary + `"}}]}`))
	f.Add([]byte(`{"schema":1,"job_id":"a","action":"x","credentials":[{"login":{"password":["` + canary + `"]}}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		job, fault := Decode(body)
		if job == nil {
			t.Fatal("no job")
		}
		if fault == nil && job.ID == "" {
			t.Fatal("a job without an id passed")
		}
	})
}
