//go:build !darwin && !dragonfly && !freebsd && !linux && !netbsd && !openbsd

package tunnel

import (
	"errors"
	"os"
)

func lockFile(string) (*os.File, error) {
	return nil, errors.New("key slots need the file locks of a Unix system: name the slot of each process instead")
}
