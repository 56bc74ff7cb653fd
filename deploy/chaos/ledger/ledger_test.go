package ledger

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// at returns a moment of the test's day.
func at(seconds int) time.Time { return time.Date(2030, 1, 1, 0, 0, seconds, 0, time.UTC) }

var testLimits = Limits{StartSlack: time.Second, FaultReach: time.Second, Resident: 1000, Files: 100}

// sound is a ledger of a system that keeps its promises, faults and all.
func sound() *Ledger {
	return &Ledger{
		Published: []Published{
			{At: at(1), Job: "read", Nonce: "n1"},
			{At: at(1), Job: "write", Nonce: "n2", Write: true, Deadline: at(10)},
			{At: at(1), Job: "write", Nonce: "n2", Write: true, Deadline: at(10)}, // by a core that was not sure
			{At: at(1), Job: "unknown", Nonce: "n3", Write: true},
			{At: at(1), Job: "dropped", Nonce: "n4", Write: true, Expires: at(2)},
			{At: at(1), Job: "refused", Nonce: "n5", Write: true, Refused: true},
		},
		Device: []Device{
			{At: at(2), Probe: true},
			{At: at(2), Nonce: "n1"},
			{At: at(4), Nonce: "n1"}, // a read may be run again
			{At: at(3), Nonce: "n2", Write: true},
			{At: at(20), Nonce: "n3", Write: true},
		},
		Results: []Result{
			{At: at(3), Job: "read", Status: "ok", Nonce: "n1"},
			{At: at(5), Job: "read", Status: "expired"},
			{At: at(4), Job: "write", Status: "ok", Nonce: "n2"},
			{At: at(5), Job: "write", Status: "ok", Nonce: "n2"},
			{At: at(22), Job: "unknown", Status: "indeterminate"},
			{At: at(2), Job: "refused", Status: "denied"},
		},
		Faults: []Fault{{At: at(20), Until: at(21), Kind: "kill"}, {At: at(5), Until: at(5), Kind: Sample, Resident: 999, Files: 99}},
	}
}

func TestSoundLedger(t *testing.T) {
	t.Parallel()
	got := sound().Check(testLimits)
	want := Report{
		Jobs: 5, Writes: 4, Runs: 2, Duplicates: 1, Restated: 1, Expired: 1, Faults: map[string]int{"kill": 1},
		Statuses: map[string]int{"ok": 2, "indeterminate": 1, "denied": 1},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// The broker gets a job back from a dead satellite after the job's expiration:
// a read may be dropped then, a write must be answered.
func TestDroppedOnReturn(t *testing.T) {
	t.Parallel()
	l := sound()
	i := slices.IndexFunc(l.Published, func(p Published) bool { return p.Nonce == "n4" })
	l.Published[i].Write = false
	l.Device = append(l.Device, Device{At: at(1), Nonce: "n4"})
	l.Faults = append(l.Faults, Fault{At: at(2), Until: at(2), Kind: "kill"})
	if got := l.Check(testLimits); len(got.Violations) > 0 || got.Dropped != 1 {
		t.Errorf("dropped %d, want 1; %v", got.Dropped, got.Violations)
	}
}

// Each case breaks one promise in a sound ledger: that one, and no other,
// must be found.
func TestBrokenPromises(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, invariant, job string
		plant                func(*Ledger)
	}{
		{"a job is lost", OneResult, "read", func(l *Ledger) { l.Results = l.Results[2:] }},
		{"a write was run and has no answer", OneResult, "unknown", func(l *Ledger) { l.Results = slices.Delete(l.Results, 4, 5) }},
		{"a write with an expiration was run and has no answer", OneResult, "dropped", func(l *Ledger) {
			l.Device = append(l.Device, Device{At: at(2), Nonce: "n4", Write: true})
			l.Faults = append(l.Faults, Fault{At: at(2), Until: at(2), Kind: "kill"})
		}},
		{"two answers to a write", OneResult, "write", func(l *Ledger) {
			l.Results = append(l.Results, Result{At: at(9), Job: "write", Status: "indeterminate"})
			l.Faults[0].At = at(4)
		}},
		{"two findings of a read", OwnAnswer, "read", func(l *Ledger) {
			l.Results[1] = Result{At: at(5), Job: "read", Status: "ok", Nonce: "n2"}
		}},
		{"a write was run twice", WriteOnce, "write", func(l *Ledger) { l.Device = append(l.Device, l.Device[3]) }},
		{"ok, and not run", TrueOK, "dropped", func(l *Ledger) {
			l.Results = append(l.Results, Result{At: at(9), Job: "dropped", Status: "ok", Nonce: "n4"})
		}},
		{"failed, and run", TrueOK, "unknown", func(l *Ledger) { l.Results[4].Status = "failed" }},
		{"expired, and run", TrueOK, "unknown", func(l *Ledger) { l.Results[4].Status = "expired" }},
		{"the answer of another job", OwnAnswer, "write", func(l *Ledger) { l.Results[2].Nonce, l.Results[3].Nonce = "n1", "n1" }},
		{"a stranger's result", OwnAnswer, "stranger", func(l *Ledger) {
			l.Results = append(l.Results, Result{At: at(3), Job: "stranger", Status: "ok"})
		}},
		{"the device was asked for nothing", OwnAnswer, "n9", func(l *Ledger) { l.Device = append(l.Device, Device{At: at(3), Nonce: "n9"}) }},
		{"started too late", InTime, "write", func(l *Ledger) { l.Device[3].At = at(12) }},
		{"a refused target was asked", AllowedOnly, "refused", func(l *Ledger) {
			l.Device = append(l.Device, Device{At: at(3), Nonce: "n5", Write: true})
			l.Results[5].Status = "ok"
			l.Results[5].Nonce = "n5"
		}},
		{"a forbidden device was asked", AllowedOnly, "n1", func(l *Ledger) { l.Device[1].Forbidden = true }},
		{"a forbidden device was probed", AllowedOnly, "", func(l *Ledger) { l.Device[0].Forbidden = true }},
		{"too much memory", Bounded, "satellite", func(l *Ledger) { l.Faults[1].Resident = 1001 }},
		{"too many files", Bounded, "satellite", func(l *Ledger) { l.Faults[1].Files = 101 }},
		{"unknown without a fault", UnknownCause, "unknown", func(l *Ledger) { l.Faults[0].At, l.Faults[0].Until = at(1), at(18) }},
		{"unknown before the fault", UnknownCause, "unknown", func(l *Ledger) { l.Faults[0].At, l.Faults[0].Until = at(23), at(24) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := sound()
			tt.plant(l)
			got := l.Check(testLimits).Violations
			if len(got) == 0 {
				t.Fatal("it was not found")
			}
			for _, v := range got {
				if v.Invariant != tt.invariant || v.Job != tt.job {
					t.Errorf("found %s, want %s of %s", v, tt.invariant, tt.job)
				}
			}
		})
	}
}

func TestLogsComeBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	want := sound()
	write(t, dir, PublishedLog, want.Published)
	write(t, dir, DeviceLog, want.Device)
	write(t, dir, ResultsLog, want.Results)
	if _, err := Read(dir); err == nil || !strings.Contains(err.Error(), "faults is missing") {
		t.Fatalf("a ledger without one of its logs: %v", err)
	}
	write(t, dir, FaultsLog, want.Faults)
	got, err := Read(dir)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v (%v), want %+v", got, err, want)
	}
	if err := os.WriteFile(filepath.Join(dir, "device.jsonl"), []byte(`{"nonce":"half`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(dir); err == nil {
		t.Fatal("half a line was taken")
	}
}

func write[T any](t *testing.T, dir, name string, entries []T) {
	t.Helper()
	log, err := OpenLog(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := log.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestSecretsAreFound(t *testing.T) {
	t.Parallel()
	const secret = "s3cret/of+the device"
	for name, text := range map[string]string{
		"plain": secret, "query": "s3cret%2Fof%2Bthe+device", "path": "s3cret%2Fof+the%20device",
		"hex": "7333637265742f6f662b74686520646576696365", "nothing": "secret of the device",
		"base64-0": base64.StdEncoding.EncodeToString([]byte(secret)), "base64-1": base64.StdEncoding.EncodeToString([]byte("a" + secret + "xyz")),
		"base64-2": base64.StdEncoding.EncodeToString([]byte("ab" + secret + "v")),
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "log"), []byte("x "+text+" y"), 0o600); err != nil {
			t.Fatal(err)
		}
		found, err := FindSecrets(dir, []string{"another secret", secret})
		if err != nil {
			t.Fatal(err)
		}
		if (len(found) == 1) == (name == "nothing") {
			t.Errorf("%s: found %v", name, found)
		}
	}
}
