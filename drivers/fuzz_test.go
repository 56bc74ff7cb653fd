package drivers

import (
	"maps"
	"slices"
	"testing"

	"usm-satellite/jobs"
)

// FuzzJudge demands that no parameters break the check of any action, and that
// a refusal says that the job is at fault.
func FuzzJudge(f *testing.F) {
	registry, closeAll := All(Options{Network: loopback()})
	f.Cleanup(closeAll)
	actions := slices.Sorted(maps.Keys(registry))
	for i, action := range actions {
		f.Add(i, []byte(`{"no_such_parameter":1}`))
		for _, c := range conformers() {
			if c.action == action {
				f.Add(i, []byte(c.params))
			}
		}
	}
	f.Fuzz(func(t *testing.T, i int, params []byte) {
		if i < 0 {
			return
		}
		job := &jobs.Job{ID: "a", Action: actions[i%len(actions)], Params: params, Target: jobs.Target{Address: "127.0.0.1"}}
		_, fault := registry.Judge(job)
		if fault != nil && fault.Code != jobs.CodeInvalidJob {
			t.Fatalf("%s: %v", job.Action, fault)
		}
		if fault == nil && job.Class != jobs.Read && job.Class != jobs.Write {
			t.Fatalf("%s has the class %q", job.Action, job.Class)
		}
	})
}
