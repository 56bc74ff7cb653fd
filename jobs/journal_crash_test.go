package jobs

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// The tests of this file run several processes on one directory and kill them
// at random moments. The processes are this test's binary again.
const (
	workerEnv  = "USM_TEST_CRASH_WORKER" // what the worker does
	workerDir  = "USM_TEST_CRASH_DIR"
	workerSeed = "USM_TEST_CRASH_SEED"
	crashKeys  = 200
)

// TestCrashWorker is a process of the crash tests, and nothing else.
func TestCrashWorker(t *testing.T) {
	seed, _ := strconv.ParseUint(os.Getenv(workerSeed), 10, 64)
	w := crashWorker{t: t, dir: os.Getenv(workerDir), rng: rand.New(rand.NewPCG(seed, 1))}
	switch os.Getenv(workerEnv) {
	case "":
	case "journal":
		w.journal()
	case "spool":
		w.spool()
	case "full":
		w.full()
	default:
		t.Fatal("no such worker")
	}
}

type crashWorker struct {
	t   *testing.T
	dir string
	rng *rand.Rand
}

// note appends a line to a file in one write: killed or not, it is there whole.
func (w crashWorker) note(file, format string, args ...any) {
	f, err := os.OpenFile(filepath.Join(w.dir, file), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = fmt.Fprintf(f, format+"\n", args...)
		_ = f.Close()
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// journal runs every write there is, as far as the journal lets it.
func (w crashWorker) journal() {
	j := openJournal(w.t, filepath.Join(w.dir, "journal"))
	for open := crashKeys; open > 0; {
		open = 0
		for _, i := range w.rng.Perm(crashKeys) {
			if !w.write(j, "key"+strconv.Itoa(i)) {
				open++
			}
		}
	}
}

func (w crashWorker) write(j *Journal, key string) (ended bool) {
	claim, err := j.Claim(key, key, nil)
	var finished *FinishedError
	switch {
	case errors.As(err, &finished):
		w.note("results", "%s %s", key, finished.Result)
		return true
	case errors.Is(err, ErrHeld):
		return false
	case isInterrupted(err):
		w.finish(claim, key, "unknown")
		return true
	case err != nil:
		w.t.Fatal(err)
	}
	if w.rng.IntN(4) == 0 {
		if err := claim.Release(); err != nil {
			w.t.Fatal(err)
		}
		return false
	}
	if err := claim.Sending(); err != nil {
		w.t.Fatal(err)
	}
	w.note("device", "%s", key)
	w.finish(claim, key, "ok-"+strconv.Itoa(os.Getpid()))
	return true
}

func (w crashWorker) finish(claim *Claim, key, result string) {
	winner, err := claim.Finish([]byte(result))
	if err != nil {
		w.t.Fatal(err)
	}
	w.note("results", "%s %s", key, winner)
}

// spool keeps results and sends those that wait, its own and others'.
func (w crashWorker) spool() {
	s := openSpool(w.t, SpoolOptions{Dir: filepath.Join(w.dir, "spool")})
	for i := range crashKeys {
		id := fmt.Sprintf("%d-%d", os.Getpid(), i)
		if err := s.Put(testMessage(id, true, w.rng.IntN(2000))); err != nil {
			w.t.Fatal(err)
		}
		w.note("kept", "%s", id)
		for _, name := range s.Oldest(w.rng.IntN(3)) {
			if m, done, err := s.Take(name); err == nil {
				w.note("sent", "%s", m.JobID)
				done(true)
			}
		}
	}
}

// full is what a satellite meets on a full disk: from some moment on, no byte
// can be written to any file.
func (w crashWorker) full() {
	j := openJournal(w.t, filepath.Join(w.dir, "journal"))
	s := openSpool(w.t, SpoolOptions{Dir: filepath.Join(w.dir, "spool")})
	held := mustClaim(w.t, j, "held")
	signal.Ignore(syscall.SIGXFSZ)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 0, Max: 0}); err != nil {
		w.t.Fatal(err)
	}
	if claim, err := j.Claim("new", "job", nil); claim != nil || err == nil || errors.Is(err, ErrHeld) || isInterrupted(err) {
		w.t.Errorf("a claim on a full disk: %v, %v", claim, err)
	}
	if err := s.Put(testMessage("new", false, 10)); err == nil {
		w.t.Error("a full disk kept a result")
	}
	if held.Sending() == nil {
		w.t.Error("a full disk took the phase of a claim")
	}
	if err := held.Release(); err != nil {
		w.t.Errorf("a claim cannot be given back on a full disk: %v", err)
	}
}

// runWorker runs a process and kills it after a time; 0: never.
func runWorker(kind, dir string, seed uint64, killAfter time.Duration) (killed bool, err error) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrashWorker$", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), workerEnv+"="+kind, workerDir+"="+dir, workerSeed+"="+strconv.FormatUint(seed, 10))
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return false, err
	}
	if killAfter > 0 {
		timer := time.AfterFunc(killAfter, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
	}
	err = cmd.Wait()
	status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() && status.Signal() == syscall.SIGKILL {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("%w: %s", err, out.String())
	}
	return false, nil
}

// storm keeps three workers on one directory and kills each at random
// moments; one more, at the end, is left to finish.
func storm(t *testing.T, kind, dir string, runsOfEach int) (kills int) {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var total atomic.Int64
	var all sync.WaitGroup
	for i := range 3 {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			for range runsOfEach {
				after := time.Duration(10+rng.IntN(250)) * time.Millisecond
				killed, err := runWorker(kind, dir, rng.Uint64(), after)
				if err != nil {
					t.Error(err)
					return
				}
				if killed {
					total.Add(1)
				}
			}
		})
	}
	all.Wait()
	if _, err := runWorker(kind, dir, seed, 0); err != nil {
		t.Fatal(err)
	}
	return int(total.Load())
}

func TestNoWriteTwiceUnderKills(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	kills := storm(t, "journal", dir, 12)
	runs := make(map[string]int)
	for _, key := range readLines(t, filepath.Join(dir, "device")) {
		runs[key]++
	}
	results := make(map[string]string)
	unknown := 0
	for _, line := range readLines(t, filepath.Join(dir, "results")) {
		key, result, _ := strings.Cut(line, " ")
		if earlier, ok := results[key]; ok && earlier != result {
			t.Errorf("%s has two results: %s and %s", key, earlier, result)
		}
		results[key] = result
	}
	for i := range crashKeys {
		key := "key" + strconv.Itoa(i)
		switch result := results[key]; {
		case result == "":
			t.Errorf("%s has no result", key)
		case runs[key] > 1:
			t.Errorf("%s was run %d times", key, runs[key])
		case result != "unknown" && runs[key] != 1:
			t.Errorf("%s is %s and was run %d times", key, result, runs[key])
		case result == "unknown":
			unknown++
		}
	}
	t.Logf("%d writes, %d kills, %d unknown", crashKeys, kills, unknown)
	if unknown > kills {
		t.Errorf("%d writes are unknown after %d kills of processes that run one at a time", unknown, kills)
	}
}

func TestNoResultLostUnderKills(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	kills := storm(t, "spool", dir, 8)
	sent := make(map[string]bool)
	for _, id := range readLines(t, filepath.Join(dir, "sent")) {
		sent[id] = true
	}
	s := openSpool(t, SpoolOptions{Dir: filepath.Join(dir, "spool")})
	for _, name := range s.Oldest(1 << 20) {
		m, _, err := s.Take(name)
		if err != nil {
			t.Fatal(err)
		}
		sent[m.JobID] = true
	}
	kept := readLines(t, filepath.Join(dir, "kept"))
	for _, id := range kept {
		if !sent[id] {
			t.Errorf("the kept result %s is lost", id)
		}
	}
	t.Logf("%d results kept, %d kills", len(kept), kills)
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := runWorker("full", dir, 0, 0); err != nil {
		t.Fatal(err)
	}
	// Room again: all is as it was.
	j := openJournal(t, filepath.Join(dir, "journal"))
	die(mustClaim(t, j, "held"))
	die(mustClaim(t, j, "new"))
	if s := openSpool(t, SpoolOptions{Dir: filepath.Join(dir, "spool")}); s.Len() != 0 {
		t.Errorf("%d results in a spool that took none", s.Len())
	}
}

func readLines(t *testing.T, path string) []string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var lines []string
	for s := bufio.NewScanner(f); s.Scan(); {
		lines = append(lines, s.Text())
	}
	return lines
}
