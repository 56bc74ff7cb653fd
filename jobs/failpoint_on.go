//go:build failpoints

package jobs

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// The name and the number of the failpoint in USM_FAILPOINT=NAME:N.
var chosenFailpoint = sync.OnceValues(func() (name string, n int64) {
	name, count, _ := strings.Cut(os.Getenv("USM_FAILPOINT"), ":")
	n, _ = strconv.ParseInt(count, 10, 64)
	return name, n
})

var failpointHits atomic.Int64

// Failpoint ends the process, as kill -9 does, when the failpoint that
// USM_FAILPOINT names is reached for the Nth time.
func Failpoint(name string) {
	chosen, n := chosenFailpoint()
	if name != chosen || failpointHits.Add(1) != n {
		return
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}
