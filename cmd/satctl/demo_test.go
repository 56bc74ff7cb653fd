package main

import (
	"os"
	"strings"
	"testing"
)

// TestDemo runs the demo as a user would, and looks for what it left behind.
func TestDemo(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.env = map[string]string{"PATH": os.Getenv("PATH"), "TMPDIR": p.dir}
	code, out, errs := p.satctl(t, "", "demo")
	if code != exitOK {
		t.Fatalf("exit code %d\n%s%s", code, out, errs)
	}
	wants := []string{
		"broker      RabbitMQ", "first job taken", "by wireguard+amqp  satellite 7", "3 sent, 3 received",
		"set through the tunnel", "FRRouting", "neighbor 192.0.2.9 remote-as 65002", "no_answer", "after the hub was started again", "memory at rest",
	}
	if realRoot() {
		wants = append(wants, "exit code 0") // of ssh.exec
	}
	for _, want := range wants {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	left, err := os.ReadDir(p.dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
