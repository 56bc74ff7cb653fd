package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"usm-satellite/drivers/secureshell"
	"usm-satellite/jobs"
)

// Limits on the parameters.
const (
	maxCommands     = 2000
	maxCommandBytes = 16 << 10
	maxAnswers      = 16
)

// params are those of cli.run, cli.configure and config.backup together; each
// action's Check refuses what is not its own.
type params struct {
	Transport    string          `json:"transport"` // "ssh" (default) or "telnet"
	Platform     json.RawMessage `json:"platform"`  // a name, or a definition
	HostKey      string          `json:"host_key"`
	LegacyCrypto bool            `json:"legacy_crypto"`
	CommandTime  int64           `json:"command_timeout_ms"` // of each command; 0: what the job has left
	Enable       *bool           `json:"enable"`             // default: when the credential has a password for it, or the action needs it
	Transcript   bool            `json:"transcript"`

	Commands    []command `json:"commands"`
	Confirm     bool      `json:"confirm"`       // answer the platform's own questions
	StopOnError *bool     `json:"stop_on_error"` // default true
	Save        bool      `json:"save"`

	platform *platform
}

// command is one line to send: a string, or an object where more is to say.
type command struct {
	Command   string  `json:"command"`
	Answers   replies `json:"answers"`    // to questions of this command, each asked in its turn or not at all
	TimeoutMS int64   `json:"timeout_ms"` // 0: that of the job's commands
	MayClose  bool    `json:"may_close"`  // the device may close the connection over it (reload, exit)

	questions []question
}

// UnmarshalJSON reads both forms.
func (c *command) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		return json.Unmarshal(data, &c.Command)
	}
	type plain command
	return strict(data, (*plain)(c))
}

// strict decodes and refuses unknown fields. Its errors quote no value.
func strict(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	err := dec.Decode(v)
	var typeErr *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &typeErr):
		return errors.New("the field " + typeErr.Field + " has the wrong type")
	case strings.HasPrefix(err.Error(), "json: unknown field "):
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	default:
		return errors.New("it is not as described")
	}
}

// decode reads and checks what all actions with a command line share.
func (ps platforms) decode(job *jobs.Job) (*params, *jobs.Fault) {
	p := &params{}
	if fault := jobs.DecodeParams(job, p); fault != nil {
		return nil, fault
	}
	if p.Transport == "" {
		p.Transport = transportSSH
	}
	switch {
	case p.Transport != transportSSH && p.Transport != transportTelnet:
		return nil, jobs.Invalid("params.transport", "must be %q or %q", transportSSH, transportTelnet)
	case p.Transport == transportTelnet && (p.HostKey != "" || p.LegacyCrypto):
		return nil, jobs.Invalid("params.host_key and params.legacy_crypto", "are of SSH, not of Telnet")
	case p.CommandTime < 0:
		return nil, jobs.Invalid("params.command_timeout_ms", "must be more than 0")
	}
	if err := secureshell.CheckPin(p.HostKey); err != nil {
		return nil, jobs.Invalid("params.host_key", "%v", err)
	}
	var fault *jobs.Fault
	if p.platform, fault = ps.parse(p.Platform); fault != nil {
		return nil, fault
	}
	return p, p.checkCommands()
}

func (p *params) checkCommands() *jobs.Fault {
	if len(p.Commands) > maxCommands {
		return jobs.Invalid("params.commands", "must be at most %d", maxCommands)
	}
	for i := range p.Commands {
		c := &p.Commands[i]
		switch {
		case len(c.Command) > maxCommandBytes:
			return jobs.Invalid("params.commands", "entry %d is longer than %d bytes", i+1, maxCommandBytes)
		case !oneLine(c.Command):
			return jobs.Invalid("params.commands", "entry %d must be one line without control characters", i+1)
		case c.TimeoutMS < 0:
			return jobs.Invalid("params.commands", "entry %d: timeout_ms must be more than 0", i+1)
		case len(c.Answers) > maxAnswers:
			return jobs.Invalid("params.commands", "entry %d has more than %d answers", i+1, maxAnswers)
		}
		compiler := compiler{}
		c.questions = compiler.questions("answers", c.Answers)
		if compiler.err != nil {
			return jobs.Invalid("params.commands", "entry %d: %v", i+1, compiler.err)
		}
	}
	return nil
}

func (p *params) stopOnError() bool { return p.StopOnError == nil || *p.StopOnError }

func (p *params) timeout(c command) time.Duration {
	if c.TimeoutMS > 0 {
		return time.Duration(c.TimeoutMS) * time.Millisecond
	}
	return time.Duration(p.CommandTime) * time.Millisecond
}
