package cli

import (
	"strings"

	"usm-satellite/jobs"
)

// maxTranscript bounds a transcript, in bytes.
const maxTranscript = 1 << 20

// transcript is the session as a person would have seen it, with what was
// typed hidden where it is secret. A nil one takes nothing.
type transcript struct {
	b       strings.Builder
	room    int // bytes of JSON
	cut     bool
	secrets *strings.Replacer
}

func newTranscript(secrets []string, room int) *transcript {
	var pairs []string
	for _, s := range secrets {
		if len(s) >= 4 { // a shorter one would mask half of the words
			pairs = append(pairs, s, "***")
		}
	}
	return &transcript{room: min(room, maxTranscript), secrets: strings.NewReplacer(pairs...)}
}

func (t *transcript) add(s string) {
	if t == nil || t.cut {
		return
	}
	s = t.secrets.Replace(s)
	if t.room -= jobs.JSONSize(s); t.room < 0 {
		t.cut = true
		s = "\n[the transcript ends here: it is too long]\n"
	}
	t.b.WriteString(s)
}

// line takes a whole line of the device.
func (t *transcript) line(b []byte) {
	if t != nil {
		t.add(text(b) + "\n")
	}
}

// open takes a prompt or a question: what is typed follows on its line.
func (t *transcript) open(s string) {
	if t != nil {
		t.add(text([]byte(s)))
	}
}

// sent takes what was typed. The device's own echo follows it.
func (t *transcript) sent(s string) {
	if t != nil {
		t.add("[" + s + "]\n")
	}
}

func (t *transcript) String() string {
	if t == nil {
		return ""
	}
	return t.b.String()
}
