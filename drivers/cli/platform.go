package cli

import (
	"embed"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"usm-satellite/jobs"
)

//go:embed platforms/*.json
var platformFiles embed.FS

// Limits on a platform that comes with a job.
const (
	maxPattern  = 1000 // characters of a pattern
	maxPatterns = 64   // entries of a list
)

// Platform says how a family of equipment behaves on its command line. The
// known ones are JSON files in platforms/; a job may bring its own, alone or
// on top of a known one ("extends"). All patterns are RE2. Those for prompts,
// questions and pagers are matched against the last, unfinished line of what
// the device has sent; a group named "host" in the prompt's pattern marks the
// part that stays the same in all modes.
type Platform struct {
	Name    string `json:"name,omitempty"`
	Extends string `json:"extends,omitempty"` // of a job's own: the known platform to start from
	Title   string `json:"title,omitempty"`

	Prompt        string    `json:"prompt"`
	Privileged    string    `json:"privileged,omitempty"` // of a prompt that needs no enable; empty: there is no such thing
	Pager         replies   `json:"pager,omitempty"`
	DisablePaging stringset `json:"disable_paging,omitempty"` // commands
	Login         login     `json:"login,omitzero"`
	Enable        enable    `json:"enable,omitzero"`
	ErrorPatterns stringset `json:"error_patterns,omitempty"` // of a line of output
	Confirm       replies   `json:"confirm,omitempty"`        // questions that stand between a command and its run
	Configure     configure `json:"configure,omitzero"`
	Backup        backup    `json:"backup,omitzero"`
	Newline       string    `json:"newline,omitempty"` // what ends a line that we send; default LF (Telnet makes it CR LF)
}

// login has the patterns of a login in the stream (Telnet).
type login struct {
	Username   string `json:"username,omitempty"`
	Password   string `json:"password,omitempty"`
	Failed     string `json:"failed,omitempty"`
	PressKey   string `json:"press_key,omitempty"`   // "Press RETURN to get started"
	UserSuffix string `json:"user_suffix,omitempty"` // put after the user name, by SSH too
}

type enable struct {
	Command  string `json:"command,omitempty"`
	Password string `json:"password,omitempty"` // pattern of its question
}

// configure has the commands of the configuration mode, in their order:
// Enter, the job's, Commit, Leave, Save (when asked for). After an error Abort
// takes the place of Commit and Leave.
type configure struct {
	Enter  stringset `json:"enter,omitempty"`
	Commit stringset `json:"commit,omitempty"`
	Leave  stringset `json:"leave,omitempty"`
	Abort  stringset `json:"abort,omitempty"`
	Save   stringset `json:"save,omitempty"`
	Direct bool      `json:"direct,omitempty"` // there is no such mode: commands are given at the prompt
}

type backup struct {
	Commands stringset `json:"commands,omitempty"`
	Volatile stringset `json:"volatile,omitempty"` // patterns of lines that change by themselves
}

// reply is a question and what to type for it.
type reply struct {
	Pattern string `json:"pattern"`
	Answer  string `json:"answer"`
	Raw     bool   `json:"raw,omitempty"` // typed without the end of a line
}

// stringset is a list that may be written as one string.
type stringset []string

// UnmarshalJSON reads a string or a list of them.
func (s *stringset) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		*s = make(stringset, 1)
		return json.Unmarshal(data, &(*s)[0])
	}
	return json.Unmarshal(data, (*[]string)(s))
}

// replies is a list of them that may be written as one pattern, or one reply.
// A pager that is only a pattern is answered with a space.
type replies []reply

// UnmarshalJSON reads a pattern, a reply or a list of replies.
func (r *replies) UnmarshalJSON(data []byte) error {
	switch {
	case len(data) > 0 && data[0] == '"':
		*r = replies{{Answer: " ", Raw: true}}
		return json.Unmarshal(data, &(*r)[0].Pattern)
	case len(data) > 0 && data[0] == '{':
		*r = make(replies, 1)
		return json.Unmarshal(data, &(*r)[0])
	default:
		return json.Unmarshal(data, (*[]reply)(r))
	}
}

// platform is a Platform with its patterns compiled.
type platform struct {
	Platform
	prompt, privileged         *regexp.Regexp
	username, password, failed *regexp.Regexp
	pressKey, enablePassword   *regexp.Regexp
	pager, confirm             []question
	errors, volatile           []*regexp.Regexp
}

// question is a compiled reply.
type question struct {
	re *regexp.Regexp
	reply
}

// What a login looks like where a platform says nothing else.
const (
	defaultUsername = `(?i)(?:user ?name|user|login|account)(?: name)?\s*:\s*$`
	defaultPassword = `(?i)pass ?(?:word|code)?(?: for [^:]{1,40})?\s*:\s*$`
	defaultPressKey = `(?i)press .{0,20}(?:return|enter|any key)`
	defaultFailed   = `(?i)(?:log[io]n (?:incorrect|failed|invalid)|incorrect (?:login|password|user)|auth\w* (?:failed|failure|error)|` +
		`access denied|permission denied|(?:bad|invalid|wrong) (?:user|login|pass|cred)|(?:user|username|password) (?:name )?(?:or password )?(?:is )?(?:error|incorrect|invalid|wrong)|too many)`
)

// platforms is the set of the known ones by name.
type platforms map[string]*platform

// loadPlatforms reads the embedded files. An error is a mistake in them; the
// tests read them all.
func loadPlatforms() (platforms, error) {
	entries, err := platformFiles.ReadDir("platforms")
	if err != nil {
		return nil, err
	}
	known := platforms{}
	for _, entry := range entries { // in the order of their names: what extends comes later
		name := entry.Name()
		data, err := platformFiles.ReadFile(path.Join("platforms", name))
		if err != nil {
			return nil, err
		}
		compiled, fault := known.parse(data)
		if fault != nil {
			return nil, fmt.Errorf("platforms/%s: %w", name, fault)
		}
		compiled.Name = strings.TrimSuffix(name, ".json")
		known[compiled.Name] = compiled
	}
	return known, nil
}

// names returns the known platforms for messages.
func (ps platforms) names() string {
	names := make([]string, 0, len(ps))
	for name := range ps {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// parse reads the parameter "platform": a name or a definition.
func (ps platforms) parse(raw json.RawMessage) (*platform, *jobs.Fault) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, jobs.Invalid("params.platform", "is missing; it must be one of %s, or a definition with at least a prompt", ps.names())
	}
	if raw[0] == '"' {
		var name string
		if json.Unmarshal(raw, &name) == nil && ps[name] != nil {
			return ps[name], nil
		}
		return nil, jobs.Invalid("params.platform", "must be one of %s, or a definition with at least a prompt", ps.names())
	}
	var own Platform
	if err := strict(raw, &own); err != nil {
		return nil, jobs.Invalid("params.platform", "cannot be read: %v", err)
	}
	if own.Extends != "" {
		base := ps[own.Extends]
		if base == nil {
			return nil, jobs.Invalid("params.platform.extends", "must be one of %s", ps.names())
		}
		own = base.clone()
		if err := strict(raw, &own); err != nil {
			return nil, jobs.Invalid("params.platform", "cannot be read: %v", err)
		}
	}
	if own.Name == "" {
		own.Name = "inline"
	}
	compiled, err := own.compile()
	if err != nil {
		return nil, jobs.Invalid("params.platform."+err.field, "%s", err.text)
	}
	return compiled, nil
}

// clone copies p far enough for a decoder to write over it.
func (p *platform) clone() Platform {
	c := p.Platform
	for _, list := range []*stringset{
		&c.DisablePaging, &c.ErrorPatterns, &c.Configure.Enter, &c.Configure.Commit, &c.Configure.Leave,
		&c.Configure.Abort, &c.Configure.Save, &c.Backup.Commands, &c.Backup.Volatile,
	} {
		*list = slices.Clone(*list)
	}
	c.Pager, c.Confirm = slices.Clone(c.Pager), slices.Clone(c.Confirm)
	return c
}

// patternError names the field of a platform that is wrong.
type patternError struct{ field, text string }

func (e *patternError) Error() string { return e.field + " " + e.text }

func (p Platform) compile() (*platform, *patternError) {
	if p.Prompt == "" {
		return nil, &patternError{"prompt", "is missing"}
	}
	if p.Newline == "" {
		p.Newline = "\n"
	}
	p.Login.fill()
	if p.Enable.Password == "" {
		p.Enable.Password = p.Login.Password
	}
	c := compiler{out: &platform{Platform: p}}
	out := c.out
	out.prompt = c.one("prompt", p.Prompt)
	out.privileged = c.one("privileged", p.Privileged)
	out.username = c.one("login.username", p.Login.Username)
	out.password = c.one("login.password", p.Login.Password)
	out.failed = c.one("login.failed", p.Login.Failed)
	out.pressKey = c.one("login.press_key", p.Login.PressKey)
	out.enablePassword = c.one("enable.password", p.Enable.Password)
	out.pager = c.questions("pager", p.Pager)
	out.confirm = c.questions("confirm", p.Confirm)
	out.errors = c.list("error_patterns", p.ErrorPatterns)
	out.volatile = c.list("backup.volatile", p.Backup.Volatile)
	c.commands()
	return out, c.err
}

func (l *login) fill() {
	for _, field := range []struct {
		value *string
		none  string
	}{
		{&l.Username, defaultUsername},
		{&l.Password, defaultPassword},
		{&l.Failed, defaultFailed},
		{&l.PressKey, defaultPressKey},
	} {
		if *field.value == "" {
			*field.value = field.none
		}
	}
}

// compiler compiles patterns and keeps the first error.
type compiler struct {
	out *platform
	err *patternError
}

func (c *compiler) fail(field, text string) {
	if c.err == nil {
		c.err = &patternError{field, text}
	}
}

func (c *compiler) one(field, pattern string) *regexp.Regexp {
	if pattern == "" {
		return nil
	}
	if len(pattern) > maxPattern {
		c.fail(field, fmt.Sprintf("is longer than %d characters", maxPattern))
		return nil
	}
	re, err := regexp.Compile(pattern)
	if err != nil {
		c.fail(field, "is no valid pattern (RE2)")
		return nil
	}
	if re.MatchString("") {
		c.fail(field, "matches the empty line")
	}
	return re
}

func (c *compiler) list(field string, patterns []string) []*regexp.Regexp {
	if len(patterns) > maxPatterns {
		c.fail(field, fmt.Sprintf("has more than %d entries", maxPatterns))
		return nil
	}
	out := make([]*regexp.Regexp, 0, len(patterns))
	for _, pattern := range patterns {
		if pattern == "" {
			c.fail(field, "has an empty entry")
			continue
		}
		out = append(out, c.one(field, pattern))
	}
	return out
}

func (c *compiler) questions(field string, list replies) []question {
	if len(list) > maxPatterns {
		c.fail(field, fmt.Sprintf("has more than %d entries", maxPatterns))
		return nil
	}
	out := make([]question, 0, len(list))
	for _, r := range list {
		if r.Pattern == "" {
			c.fail(field, "has an entry without a pattern")
			continue
		}
		out = append(out, question{re: c.one(field, r.Pattern), reply: r})
	}
	return out
}

func (c *compiler) commands() {
	p := &c.out.Platform
	for field, list := range map[string]stringset{
		"disable_paging": p.DisablePaging, "configure.enter": p.Configure.Enter, "configure.commit": p.Configure.Commit,
		"configure.leave": p.Configure.Leave, "configure.abort": p.Configure.Abort, "configure.save": p.Configure.Save,
		"backup.commands": p.Backup.Commands, "enable.command": {p.Enable.Command}, "login.user_suffix": {p.Login.UserSuffix},
	} {
		if len(list) > maxPatterns || slices.ContainsFunc(list, func(s string) bool { return !oneLine(s) }) {
			c.fail(field, "must be short lists of commands of one line each, without control characters")
		}
	}
}

// oneLine says that typing s does no more than one command.
func oneLine(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) < 0
}
