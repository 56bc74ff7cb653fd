package cli

import (
	"context"
	"errors"
	"strings"
	"time"

	"usm-satellite/drivers/secureshell"
	"usm-satellite/jobs"
)

// maxDialogue bounds the questions of a login.
const maxDialogue = 12

// begin takes a new connection to the prompt: login, privileges, no paging.
// On a fault the connection is closed.
func (r *runner) begin(ctx context.Context, login *jobs.LoginCredential) *jobs.Fault {
	r.session = r.live.session
	ctx, cancel := context.WithTimeout(ctx, secureshell.LoginTime)
	defer cancel()
	fault := r.logIn(ctx, login)
	if fault == nil && r.wantsEnable(login) {
		fault = r.enable(ctx, login)
	}
	if fault == nil {
		fault = r.disablePaging(ctx)
	}
	if fault != nil {
		r.session.Close()
		r.session, r.live = nil, nil
		return fault
	}
	r.home = r.session.prompt
	return nil
}

// The questions of a login, in the order of loginQuestions.
const (
	askedUsername = iota
	askedPassword
	askedKey
)

func (r *runner) logIn(ctx context.Context, login *jobs.LoginCredential) *jobs.Fault {
	s, p := r.session, r.p.platform
	questions := []question{{re: p.username}, {re: p.password}, {re: p.pressKey}}
	dialogue := dialogue{login: login, suffix: p.Login.UserSuffix}
	for range maxDialogue {
		event, err := s.wait(ctx, questions, func(line []byte) error {
			dialogue.failed = dialogue.failed || p.failed.Match(line)
			return nil
		})
		if err != nil {
			if dialogue.failed && dialogue.password {
				return refused()
			}
			return r.loginFault(ctx, err)
		}
		if event.kind == sawPrompt {
			return nil
		}
		line, hidden, fault := dialogue.answer(event)
		if fault != nil {
			return fault
		}
		if line == nil {
			continue
		}
		if err := s.send(ctx, *line, hidden); err != nil {
			return r.loginFault(ctx, err)
		}
	}
	return jobs.Faultf(jobs.CodePromptNotFound, jobs.StageLogin, "the device goes on asking and shows no prompt")
}

// dialogue is a login by questions.
type dialogue struct {
	login              *jobs.LoginCredential
	suffix             string
	username, password bool // given
	failed             bool // the device said so
}

// answer returns what to type, or nil where there is nothing to answer.
func (d *dialogue) answer(e event) (line *string, hidden bool, fault *jobs.Fault) {
	switch {
	case e.index == askedKey:
		empty := ""
		return &empty, false, nil
	case strings.HasPrefix(strings.ToLower(strings.TrimSpace(e.text)), "last "):
		return nil, false, nil
	case d.login == nil:
		return nil, false, secureshell.NoLogin()
	case e.index == askedUsername:
		if d.password || d.username {
			return nil, false, refused()
		}
		d.username = true
		name := d.login.Username + d.suffix
		return &name, false, checkTyped("username", name)
	default:
		if d.password {
			return nil, false, refused()
		}
		d.password = true
		password := d.login.Password.Reveal()
		return &password, true, checkTyped("password", password)
	}
}

// checkTyped keeps a credential from being more than one line: what comes
// behind the end of it would be typed at the prompt.
func checkTyped(name, value string) *jobs.Fault {
	if !oneLine(value) {
		return jobs.Faultf(jobs.CodeAuthFailed, jobs.StageCredentials, "credentials: the %s has control characters, which cannot be typed", name)
	}
	return nil
}

func refused() *jobs.Fault {
	return jobs.Faultf(jobs.CodeAuthFailed, jobs.StageLogin, "the device refused the login")
}

// loginFault names what kept the prompt from coming.
func (r *runner) loginFault(ctx context.Context, err error) *jobs.Fault {
	s := r.session
	switch {
	case errors.Is(err, errClosed):
		return jobs.Faultf(jobs.CodeUnreachable, jobs.StageLogin, "the device closed the connection before it showed a prompt")
	case errors.Is(err, errEndless), errors.Is(err, errPager):
		return jobs.Faultf(jobs.CodeProtocolError, jobs.StageLogin, "before the prompt: %v", err)
	case errors.Is(context.Cause(ctx), jobs.ErrCancelled), errors.Is(context.Cause(ctx), jobs.ErrStopping), s.nothingYet():
		return jobs.Faultf(jobs.CodeTimeout, jobs.StageLogin, "the device showed no prompt and no login in time")
	default:
		return jobs.Faultf(jobs.CodePromptNotFound, jobs.StageLogin,
			"no prompt of the platform %s was found in time; the last line is %q", r.p.platform.Name, r.lastLine())
	}
}

func (r *runner) wantsEnable(login *jobs.LoginCredential) bool {
	p := r.p.platform
	if p.Enable.Command == "" || p.privileged == nil || p.privileged.MatchString(r.session.prompt) {
		return false
	}
	if r.p.Enable != nil {
		return *r.p.Enable
	}
	return r.privileges || login != nil && !login.EnablePassword.IsZero()
}

// enable asks for privileges, with the password for it or, where there is
// none, with that of the login.
func (r *runner) enable(ctx context.Context, login *jobs.LoginCredential) *jobs.Fault {
	s, p := r.session, r.p.platform
	password := ""
	if login != nil {
		password = login.EnablePassword.Reveal()
		if password == "" {
			password = login.Password.Reveal()
		}
	}
	if fault := checkTyped("enable_password", password); fault != nil {
		return fault
	}
	line, hidden := p.Enable.Command, false
	for range 2 {
		if err := s.send(ctx, line, hidden); err != nil {
			return r.loginFault(ctx, err)
		}
		event, err := s.wait(ctx, []question{{re: p.enablePassword}}, nil)
		if err != nil {
			return r.loginFault(ctx, err)
		}
		if event.kind == sawPrompt {
			break
		}
		line, hidden = password, true
	}
	if !p.privileged.MatchString(s.prompt) {
		return jobs.Faultf(jobs.CodeAuthFailed, jobs.StageLogin, "the device refused privileges (%s); check the credential's enable_password", p.Enable.Command)
	}
	return nil
}

// disablePaging asks the device not to stop at each page. One that cannot is
// answered page by page.
func (r *runner) disablePaging(ctx context.Context) *jobs.Fault {
	for _, line := range r.p.platform.DisablePaging {
		if err := r.session.send(ctx, line, false); err != nil {
			return r.loginFault(ctx, err)
		}
		if _, err := r.session.wait(ctx, nil, nil); err != nil {
			return r.loginFault(ctx, err)
		}
	}
	return nil
}

// nothingYet says that the device has sent nothing that a person could see.
func (s *session) nothingYet() bool {
	return s.total == 0
}

// lastLine is the unfinished line, short and without secrets, for a message.
func (r *runner) lastLine() string {
	line := text(r.session.cleaner.clean(r.session.tail))
	if len(line) > 80 {
		line = strings.ToValidUTF8(line[len(line)-80:], "")
	}
	return r.masked(line)
}

// quiet is how long a line must have stood for "it stopped there".
const quiet = 2 * time.Second
