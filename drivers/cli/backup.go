package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"usm-satellite/jobs"
)

// backupData is the data of config.backup.
type backupData struct {
	Config     string `json:"config"` // without the lines that change by themselves
	SHA256     string `json:"sha256"` // of Config, in hexadecimal
	Removed    int    `json:"removed_lines"`
	Transcript string `json:"transcript,omitempty"`
}

func (d *Driver) checkBackup(job *jobs.Job) *jobs.Fault {
	p, fault := d.decode(job)
	switch {
	case fault != nil:
		return fault
	case len(p.Commands) > 0 || p.Save || p.Confirm || p.StopOnError != nil:
		return jobs.Invalid("params.commands, save, confirm and stop_on_error", "are no parameters of %s; its commands are in the platform", job.Action)
	case len(p.platform.Backup.Commands) == 0:
		return jobs.Invalid("params.platform.backup.commands", "is missing: the platform %s has no command that is known", p.platform.Name)
	}
	return nil
}

// backup is config.backup.
func (d *Driver) backup(ctx context.Context, job *jobs.Job) (jobs.Output, error) {
	r, fault := d.runner(job)
	if fault != nil {
		return jobs.Output{}, fault
	}
	r.privileges = true
	// Half a configuration is none: no parts are sent, and no result is cut.
	r.job.Stream = false
	return d.with(ctx, r, r.save)
}

func (r *runner) save(ctx context.Context) *jobs.Fault {
	fault := r.all(ctx, own(r.p.platform.Backup.Commands))
	if fault != nil {
		return fault
	}
	if r.truncated {
		return jobs.Faultf(jobs.CodeResultTooLarge, jobs.StageExecute,
			"the configuration is larger than the result may be; raise limits.max_result_bytes (at most %d)", jobs.DefaultMaxBytes)
	}
	data := backupData{Transcript: r.transcript.String()}
	var outputs []string
	for _, step := range r.steps {
		config, removed := r.p.platform.stable(step.Output)
		outputs = append(outputs, config)
		data.Removed += removed
	}
	data.Config = strings.Join(outputs, "\n")
	if strings.TrimSpace(data.Config) == "" {
		return jobs.Faultf(jobs.CodeProtocolError, jobs.StageParse, "the device showed an empty configuration")
	}
	sum := sha256.Sum256([]byte(data.Config))
	data.SHA256 = hex.EncodeToString(sum[:])
	r.data = data
	return nil
}

// stable takes out of a configuration what differs from one reading to the
// next without a change: volatile lines, blanks at ends, empty lines around.
func (p *platform) stable(output string) (config string, removed int) {
	var b strings.Builder
	for line := range strings.Lines(output) {
		line = strings.TrimRight(line, " \t\r\n")
		if p.isVolatile(line) {
			removed++
			continue
		}
		b.WriteString(line)
		b.WriteByte('\n')
	}
	return strings.Trim(b.String(), "\n") + "\n", removed
}

func (p *platform) isVolatile(line string) bool {
	for _, re := range p.volatile {
		if re.MatchString(line) {
			return true
		}
	}
	return false
}
