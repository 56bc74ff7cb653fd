package main

// mutant is a way to break a promise. Its text must occur once in its file: a
// mutant that no longer applies is an error, not a mutant killed.
type mutant struct{ name, file, old, new string }

func mutants() []mutant {
	return []mutant{
		{
			"a claim does not keep others out", "jobs/journal.go",
			"err = os.Link(f.Name(), j.path(key, \".claim\"))", "err = os.Rename(f.Name(), j.path(key, \".claim\"))",
		},
		{
			"a claim is not locked", "jobs/journal.go",
			"err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)", "err := error(nil)\n\t_ = syscall.LOCK_EX",
		},
		{
			"a claim does not say that it sends", "jobs/journal.go",
			"_, err := c.file.WriteAt([]byte(sendingLine), c.phase)\n\treturn err", "return nil",
		},
		{
			"an interrupted write is run again", "jobs/write.go",
			"return t.record(claim, t.fail(interruptedFault(interrupted)))\n\t}\n\tFailpoint", "claim.phase = 0\n\t}\n\tFailpoint",
		},
		{
			"the result of a write is not recorded", "jobs/write.go",
			"winner, err := claim.Finish(body)", "winner, err := body, claim.Release()",
		},
		{
			"a write that was not answered has failed", "jobs/run.go",
			"r.Status = statusOf(fault, t.job.Class)", "r.Status = statusOf(fault, Read)",
		},
		{
			"a late copy of a write has expired", "jobs/write.go",
			"if t.job.Class != Write || t.d.Journal == nil || !t.d.Journal.Known(t.writeKey()) {", "if true {",
		},
		{
			"a set is sent again when its reply is lost", "drivers/snmp/session.go",
			"client.Retries = 0 // a lost reply must not make a second write\n\t\tclient.Timeout = job.Timeout", "client.Retries, client.Timeout = 3, job.Timeout/8",
		},
		{
			"a job is acknowledged when it comes", "jobs/dispatcher.go",
			"d.counts.received.Add(1)", "d.counts.received.Add(1)\n\tdel.Receipt.Ack()\n\tdel.Receipt = onceAcked{del.Receipt}",
		},
		{
			"a returned result counts as sent", "broker/publish.go",
			"return errUnroutable\n\t}\n\treturn nil", "return nil\n\t}\n\treturn nil",
		},
		{
			"deadlines are ignored", "jobs/task.go",
			"if !t.job.Deadline.IsZero() && !time.Now().Before(t.job.Deadline) {", "if false {",
		},
		{
			"the answer is another job's", "jobs/recent.go",
			"e, ok := r.byJob[jobID]", "e, ok := r.order.Back(), r.order.Len() > 0 && jobID[len(jobID)-1] == '7'",
		},
		{
			"the policy is not asked for addresses", "jobs/policy.go",
			"case len(p.Targets) > 0:\n\t\treturn denied(\"USM_ALLOW_TARGETS\", \"%s\", addr)", "case len(p.Targets) > 0:\n\t\treturn nil",
		},
		{
			"a job is logged as it came", "jobs/dispatcher.go",
			"d.counts.received.Add(1)", "d.counts.received.Add(1)\n\td.Logger.Info(\"a job came\", \"body\", string(del.Body))",
		},
	}
}

// onceAcked is added to the package jobs for the mutant that needs it.
const onceAcked = `package jobs

type onceAcked struct{ Receipt }

func (onceAcked) Ack()     {}
func (onceAcked) Requeue() {}
`
