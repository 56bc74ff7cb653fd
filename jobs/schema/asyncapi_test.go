package schema_test

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"usm-satellite/broker"
	"usm-satellite/jobs"
)

// asyncAPI reads the file as JSON has it.
func asyncAPI(t *testing.T) map[string]any {
	t.Helper()
	var doc map[string]any
	if err := yaml.Unmarshal(read(t, "asyncapi.yaml"), &doc); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return document(t, text).(map[string]any)
}

// TestAsyncAPIHangsTogether: every reference leads somewhere, every message of
// the components is on a channel, and every channel is used.
func TestAsyncAPIHangsTogether(t *testing.T) {
	doc := asyncAPI(t)
	used := make(map[string]bool)
	var walk func(value any)
	walk = func(value any) {
		switch v := value.(type) {
		case []any:
			for _, item := range v {
				walk(item)
			}
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok {
				used[ref] = true
				if path, inside := strings.CutPrefix(ref, "#/"); inside {
					lookup(t, doc, strings.Split(path, "/")...)
				} else if _, err := os.Stat(ref); err != nil {
					t.Errorf("%s leads nowhere", ref)
				}
			}
			for _, item := range v {
				walk(item)
			}
		}
	}
	walk(doc)
	for kind, path := range map[string][]string{"#/components/messages/": {"components", "messages"}, "#/channels/": {"channels"}} {
		for name := range lookup(t, doc, path...).(map[string]any) {
			if !used[kind+name] {
				t.Errorf("%s%s is not used", kind, name)
			}
		}
	}
}

// TestAsyncAPINamesAreThoseOfTheCode: exchanges and types of messages.
func TestAsyncAPINamesAreThoseOfTheCode(t *testing.T) {
	doc := asyncAPI(t)
	for channel, exchange := range map[string]string{"control": broker.ControlExchange, "status": broker.StatusExchange} {
		if name := lookup(t, doc, "channels", channel, "bindings", "amqp", "exchange", "name"); name != exchange {
			t.Errorf("the exchange of %s is %v, in the code %q", channel, name, exchange)
		}
	}
	for message, kind := range map[string]string{"result": jobs.TypeResult, "part": jobs.TypePart} {
		if got := lookup(t, doc, "components", "messages", message, "bindings", "amqp", "messageType"); got != kind {
			t.Errorf("the type of the message %s is %v, in the code %q", message, got, kind)
		}
	}
}

// TestAsyncAPIExamples: the payloads that are schemas in the file itself.
func TestAsyncAPIExamples(t *testing.T) {
	messages := lookup(t, asyncAPI(t), "components", "messages").(map[string]any)
	checked := 0
	for _, name := range slices.Sorted(maps.Keys(messages)) {
		message := messages[name].(map[string]any)
		examples, _ := message["examples"].([]any)
		for _, example := range examples {
			compiler := jsonschema.NewCompiler()
			if err := compiler.AddResource("urn:payload", message["payload"]); err != nil {
				t.Fatal(err)
			}
			schema, err := compiler.Compile("urn:payload")
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			checked++
			if err := schema.Validate(lookup(t, example, "payload")); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if checked < 2 {
		t.Errorf("only %d examples were found", checked)
	}
}
