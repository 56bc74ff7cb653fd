//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package tunnel

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// lockFile locks a file for this process by flock(2); errTaken says that
// another has it.
func lockFile(path string) (*os.File, error) {
	f, err := openLock(path)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err == nil {
		return f, nil
	}
	_ = f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, errTaken
	}
	return nil, fmt.Errorf("lock %s: %w (the state directory must be on a file system with locks)", path, err)
}
