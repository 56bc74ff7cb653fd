package routeros

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"usm-satellite/jobs"
)

// said is a connection over which a device has said all that it will.
type said struct {
	net.Conn

	r io.Reader
}

func (s said) Read(p []byte) (int, error)  { return s.r.Read(p) }
func (s said) Write(p []byte) (int, error) { return len(p), nil }

// FuzzSession demands that nothing that a device says breaks the session, that
// the replies fit into what the job allows, and that no fault has the password.
func FuzzSession(f *testing.F) {
	words := func(sentences ...[]string) []byte {
		var b []byte
		for _, s := range sentences {
			b = appendSentence(b, s)
		}
		return b
	}
	const password = "canary-5ecret"
	done := []string{"!done"}
	f.Add(words(done, []string{"!re", "=name=a", ".id=*1"}, done))
	f.Add(words(done, []string{"!trap", "=message=" + password}, done))
	f.Add(words([]string{"!trap", "=message=no"}, done))
	f.Add(words(done, []string{"!fatal", password}))
	f.Fuzz(func(t *testing.T, stream []byte) {
		const room = 4096
		s := newSession(t.Context(), said{r: strings.NewReader(string(stream))}, room, 10)
		err := s.login(jobs.LoginCredential{Username: "admin", Password: jobs.NewSecret(password)})
		if err == nil {
			err = s.callAll([][]string{{"/system/identity/print"}})
		}
		var fault *jobs.Fault
		if err != nil && (!errors.As(err, &fault) || strings.Contains(fault.Message, password)) {
			t.Fatal(err)
		}
		text, err := json.Marshal(s.replies)
		if err != nil || len(text) > room+1024 || len(s.replies) > 10+1 {
			t.Fatalf("%d replies, %d bytes, %v", len(s.replies), len(text), err)
		}
	})
}
