package tunnel

import (
	"errors"
	"flag"
	"os"
	"os/exec"
	"testing"
)

func slotConfigs(n int) []Config {
	var slots []Config
	for range n {
		slots = append(slots, Config{PrivateKey: NewPrivateKey()})
	}
	return slots
}

// TestSlotHolder is the other process of TestSlotsAreFreedByADeadProcess.
func TestSlotHolder(t *testing.T) {
	args := flag.Args()
	if len(args) < 2 {
		return // an ordinary run of the tests
	}
	dir, keys := args[0], args[1:]
	var slots []Config
	for _, text := range keys {
		key, err := ParsePrivateKey(text)
		if err != nil {
			t.Fatal(err)
		}
		slots = append(slots, Config{PrivateKey: key})
	}
	if _, _, _, err := TakeSlot(dir, slots); err != nil {
		t.Fatal(err)
	}
	_, _ = os.Stdout.WriteString("taken\n")
	select {} // until killed
}

func TestSlotsAreTakenOnce(t *testing.T) {
	t.Parallel()
	dir, slots := t.TempDir(), slotConfigs(3)
	var releases []func()
	for want := range slots {
		cfg, release, index, err := TakeSlot(dir, slots)
		if err != nil || index != want || !cfg.PrivateKey.equal(slots[want].PrivateKey.secret) {
			t.Fatalf("slot %d: got %d, %v", want, index, err)
		}
		releases = append(releases, release)
	}
	if _, _, _, err := TakeSlot(dir, slots); !errors.Is(err, ErrNoSlot) {
		t.Errorf("a fourth process: %v, want ErrNoSlot", err)
	}
	releases[1]()
	_, release, index, err := TakeSlot(dir, slots)
	if err != nil || index != 1 {
		t.Errorf("after slot 1 was freed: got %d, %v", index, err)
	}
	release()
	releases[0]()
	releases[2]()
	if _, _, _, err := TakeSlot(dir, nil); err == nil {
		t.Error("no slots, no error")
	}
	if _, _, _, err := TakeSlot(dir+"/absent", slots); err == nil || errors.Is(err, ErrNoSlot) {
		t.Errorf("no directory: %v", err)
	}
}

func TestSlotsAreFreedByADeadProcess(t *testing.T) {
	t.Parallel()
	dir, slots := t.TempDir(), slotConfigs(2)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestSlotHolder$", dir, slots[0].PrivateKey.Reveal(), slots[1].PrivateKey.Reveal())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	killed := false
	kill := func() {
		if !killed {
			killed = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	defer kill()
	line := make([]byte, len("taken\n"))
	if _, err := out.Read(line); err != nil || string(line) != "taken\n" {
		t.Fatalf("the other process said %q, %v", line, err)
	}
	_, release, index, err := TakeSlot(dir, slots)
	if err != nil || index != 1 {
		t.Fatalf("beside another process: got %d, %v, want 1", index, err)
	}
	release()
	kill()
	_, release, index, err = TakeSlot(dir, slots)
	if err != nil || index != 0 {
		t.Fatalf("after its death: got %d, %v, want 0", index, err)
	}
	release()
}
