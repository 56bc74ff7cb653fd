package tunnel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// ErrNoSlot says that every key of this satellite is in use on this host.
var ErrNoSlot = errors.New("every WireGuard key slot is in use by another process: enrol the satellite with more slots, or run fewer replicas")

var errTaken = errors.New("taken")

// TakeSlot gives this process the first configuration whose key no other
// process of the host uses, and keeps it until release is called or the
// process ends, however it ends: the lock is the operating system's, on a file
// in dir. It fails with ErrNoSlot when none is free.
//
// All processes must be given the same directory; on several hosts each must
// be told its slot.
func TakeSlot(dir string, slots []Config) (cfg Config, release func(), index int, err error) {
	if len(slots) == 0 {
		return Config{}, nil, 0, errors.New("no WireGuard key slots are configured")
	}
	for i, slot := range slots {
		path := filepath.Join(dir, slotName(slot.PrivateKey.Public()))
		f, err := lockFile(path)
		if errors.Is(err, errTaken) {
			continue
		}
		if err != nil {
			return Config{}, nil, 0, fmt.Errorf("key slot %d: %w", i, err)
		}
		return slot, func() { _ = f.Close() }, i, nil
	}
	return Config{}, nil, 0, fmt.Errorf("%w (%d of %d)", ErrNoSlot, len(slots), len(slots))
}

func slotName(key PublicKey) string { return "wireguard-" + shortName(key) + ".lock" }

// openLock opens the file that is locked. It stays when the lock is gone:
// deleting it would let two processes lock two files of one name.
func openLock(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
}
