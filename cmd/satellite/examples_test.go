package main

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"usm-satellite/deploy/lab"
)

// producers are the examples for developers of a core, as they are run.
func producers() map[string][]string {
	return map[string][]string{
		"php":    {"/usr/bin/php", "-f", "../../deploy/examples/php/submit.php"},
		"python": {"/usr/bin/python3", "../../deploy/examples/python/submit.py"},
	}
}

// produce runs an example with a job on its standard input.
func produce(t *testing.T, program []string, job []byte, env map[string]string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program[0], program[1:]...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE=1"}
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.Stdin = bytes.NewReader(job)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("%v cannot be run (make deps installs what it needs): %v %s", program, err, &errs)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func resultSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	schema, err := jsonschema.NewCompiler().Compile("../../jobs/schema/result.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// conforms holds a result against the published schema.
func conforms(t *testing.T, schema *jsonschema.Schema, body string) {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(body))
	if err == nil {
		err = schema.Validate(doc)
	}
	if err != nil {
		t.Errorf("%v\nin %s", err, body)
	}
}

func TestProducersGetTheirAnswers(t *testing.T) {
	s, agent, schema := newSite(t, rabbit), snmpd(t), resultSchema(t)
	s.satellite()
	for language, program := range producers() {
		t.Run(language, func(t *testing.T) {
			for id, body := range kinds(language+"-", agent.Port) {
				out, errs, code := produce(t, program, body, s.env())
				if code != 0 || !strings.Contains(out, id) {
					t.Errorf("%s: exit status %d, %s %s", id, code, out, errs)
					continue
				}
				conforms(t, schema, out)
			}
			refused := job(language+"-refused", "tcp.connect", target(lab.Port()))
			out, errs, code := produce(t, program, refused, s.env())
			if code != 1 || !strings.Contains(out, "refused") {
				t.Errorf("a port that refuses: exit status %d, %s %s", code, out, errs)
			}
			conforms(t, schema, out)
			invalid := job(language+"-invalid", "icmp.ping", `"target":{"address":"127.0.0.1"},"params":{"cuont":1}`)
			out, errs, code = produce(t, program, invalid, s.env())
			if code != 1 || !strings.Contains(out, "cuont") {
				t.Errorf("an unknown parameter: exit status %d, %s %s", code, out, errs)
			}
			conforms(t, schema, out)
			out, errs, code = produce(t, program, invalid, s.env("USM_POLLER_SATELLITE_ID", "8"))
			if code != 2 || !strings.Contains(errs, "usm_poller-sat-8") {
				t.Errorf("no such queue: exit status %d, %s %s", code, out, errs)
			}
		})
	}
}

// By AMQPS, and with answers through an exchange of their own.
func TestProducersByTLSAndExchange(t *testing.T) {
	s, schema := newSite(t, rabbit), resultSchema(t)
	s.must(s.node.DeclareExchange(t.Context(), s.vhost, "usm_poller.results"))
	// Results that nobody is bound for go to the core's queue.
	binding := "/bindings/" + url.PathEscape(s.vhost) + "/e/usm_poller.results/q/erp.core"
	s.must(s.node.API(t.Context(), http.MethodPost, binding, map[string]string{"routing_key": "#"}, nil))
	s.satellite("USM_RESULTS_EXCHANGE", "usm_poller.results")
	env := s.env("US_AMQP_DSN", s.node.TLSDSN(s.vhost), "USM_AMQP_CA_FILE", rabbit.CAFile, "USM_RESULTS_EXCHANGE", "usm_poller.results")
	for language, program := range producers() {
		t.Run(language, func(t *testing.T) {
			ping := job(language, "icmp.ping", `"target":{"address":"127.0.0.1"},"params":{"count":1}`)
			out, errs, code := produce(t, program, ping, env)
			if code != 0 || !strings.Contains(out, language) {
				t.Fatalf("exit status %d, %s %s", code, out, errs)
			}
			conforms(t, schema, out)
		})
	}
}
