package tunnel

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// The device complains of each packet that it cannot send: once a minute is
// enough, with how often it was.
func TestDeviceLogDoesNotRepeatItself(t *testing.T) {
	var text strings.Builder
	log := deviceLog(t.Context(), slog.New(slog.NewTextHandler(&text, nil)))
	for range 100 {
		log.Errorf("%v - Failed to send data packets: %v", "peer", "operation not permitted")
		log.Errorf("%v - Failed to send data packets: %v", "other", "operation not permitted")
	}
	if got := strings.Count(text.String(), "Failed to send"); got != 2 {
		t.Errorf("said %d times, want once of each peer", got)
	}

	r := repeats{said: make(map[string]*repeated)}
	now := time.Unix(1_800_000_000, 0)
	for i := range 61 {
		held, again := r.hold("line", now.Add(time.Duration(i)*time.Second))
		if want := i > 0 && i < 60; again != want || i == 60 && held != 59 {
			t.Errorf("after %d seconds: %d held, again %t", i, held, again)
		}
	}
	for i := range 10 * mostRepeats {
		if _, again := r.hold(fmt.Sprint(i), now); again {
			t.Fatal("a new line is held back")
		}
	}
	if len(r.said) > mostRepeats {
		t.Errorf("%d lines are remembered", len(r.said))
	}
}
