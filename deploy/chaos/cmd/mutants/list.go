package main

// mutant is a way to break a promise. Its text must occur once in its file: a
// mutant that no longer applies is an error, not a mutant killed. Where test is
// set, that test of the file's package is to find it, in place of a chaos run:
// what it takes is too rare there.
type mutant struct{ name, file, old, new, test string }

func mutants() []mutant {
	return []mutant{
		{
			name: "a claim does not keep others out", file: "jobs/journal.go",
			old: "err = os.Link(f.Name(), j.path(key, \".claim\"))",
			new: "err = os.Rename(f.Name(), j.path(key, \".claim\"))",
		},
		{
			name: "a claim is not locked", file: "jobs/journal.go", test: "TestClaimIsHeldByOne",
			old: "err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)", new: "err := error(nil)\n\t_ = syscall.LOCK_EX",
		},
		{
			name: "a claim does not say that it sends", file: "jobs/journal.go",
			old: "_, err := c.file.WriteAt([]byte(sendingLine), c.phase)\n\treturn err",
			new: "return nil",
		},
		{
			name: "an interrupted write is run again", file: "jobs/write.go",
			old: "return t.record(claim, t.fail(interruptedFault(interrupted)))\n\t}\n\tFailpoint",
			new: "claim.phase = 0\n\t}\n\tFailpoint",
		},
		{
			name: "the result of a write is not recorded", file: "jobs/write.go",
			old: "winner, err := claim.Finish(body)",
			new: "winner, err := body, claim.Release()",
		},
		{
			name: "a write that was not answered has failed", file: "jobs/run.go",
			old: "r.Status = statusOf(fault, t.job.Class)",
			new: "r.Status = statusOf(fault, Read)",
		},
		{
			name: "a late copy of a write has expired", file: "jobs/write.go", test: "TestLateCopyOfAWrite",
			old: "if t.job.Class != Write || t.d.Journal == nil || !t.d.Journal.Known(t.writeKey()) {",
			new: "if true {",
		},
		{
			name: "a set is sent again when its reply is lost", file: "drivers/snmp/set.go",
			old: "s.Timeout, s.Retries = remaining(ctx, job), 0",
			new: "s.Timeout, s.Retries = remaining(ctx, job)/8, 3",
		},
		{
			name: "a job is acknowledged when it comes", file: "jobs/dispatcher.go",
			old: "d.counts.received.Add(1)",
			new: "d.counts.received.Add(1)\n\tdel.Receipt.Ack()\n\tdel.Receipt = onceAcked{del.Receipt}",
		},
		{
			name: "a returned result counts as sent", file: "broker/publish.go", test: "TestUnroutableResultsAreKept",
			old: "return errUnroutable\n\t}",
			new: "return nil\n\t}",
		},
		{
			name: "deadlines are ignored", file: "jobs/task.go", test: "TestSimulate",
			old: "if !t.job.Deadline.IsZero() && !time.Now().Before(t.job.Deadline) {",
			new: "if false {",
		},
		{
			name: "the answer is another job's", file: "jobs/recent.go", test: "TestSimulate",
			old: "e, ok := r.byJob[jobID]",
			new: "e, ok := r.order.Back(), r.order.Len() > 0 && jobID[len(jobID)-1] == '7'",
		},
		{
			name: "the policy is not asked for addresses", file: "jobs/policy.go",
			old: "case len(p.Targets) > 0:\n\t\treturn denied(\"USM_ALLOW_TARGETS\", \"%s\", addr)",
			new: "case len(p.Targets) > 0:\n\t\treturn nil",
		},
		{
			name: "a job is logged as it came", file: "jobs/dispatcher.go",
			old: "d.counts.received.Add(1)",
			new: "d.counts.received.Add(1)\n\td.Logger.Info(\"a job came\", \"body\", string(del.Body))",
		},
	}
}

// onceAcked is added to the package jobs for the mutant that needs it.
const onceAcked = `package jobs

type onceAcked struct{ Receipt }

func (onceAcked) Ack()     {}
func (onceAcked) Requeue() {}
`
