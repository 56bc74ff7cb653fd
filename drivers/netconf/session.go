package netconf

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"usm-satellite/drivers/secureshell"
	"usm-satellite/jobs"
)

const (
	base10    = "urn:ietf:params:netconf:base:1.0"
	base11    = "urn:ietf:params:netconf:base:1.1"
	namespace = "urn:ietf:params:xml:ns:netconf:base:1.0"

	clientHello = xml.Header + `<hello xmlns="` + namespace + `"><capabilities><capability>` + base10 +
		`</capability><capability>` + base11 + `</capability></capabilities></hello>`
)

// maxHello bounds a server's hello: some list a thousand models.
const maxHello = 2 << 20

// helloPause is how long a 1.1 server is given to take our hello before the
// first request comes in the new framing. There is no answer to a hello, and
// netconfd 2.13 loses a request that it reads together with it.
const helloPause = 250 * time.Millisecond

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// maxStray bounds the messages that may come before the one that is waited
// for: notifications of a subscription that nobody made.
const maxStray = 100

// The states of a reply.
const (
	stateNotSent      = "not_sent"
	stateSent         = "sent"
	stateAcknowledged = "acknowledged"
)

// session is an open NETCONF session.
type session struct {
	*framer
	data data
	room int // bytes that the replies may still take
}

type hello struct {
	XMLName      xml.Name `xml:"hello"`
	Capabilities []string `xml:"capabilities>capability"`
	SessionID    string   `xml:"session-id"`
}

// open starts the subsystem and says hello (RFC 6241, 8.1).
func open(ctx context.Context, client *secureshell.Client, room int) (*session, *jobs.Fault) {
	channel, err := client.NewSession()
	if err != nil {
		return nil, loginFault(ctx, err, "the device let us in by SSH and gave no session")
	}
	in, err := channel.StdinPipe()
	if err != nil {
		return nil, loginFault(ctx, err, "the session has no input")
	}
	out, err := channel.StdoutPipe()
	if err != nil {
		return nil, loginFault(ctx, err, "the session has no output")
	}
	if err := channel.RequestSubsystem("netconf"); err != nil {
		return nil, loginFault(ctx, err, "the device has no NETCONF on this port (no such SSH subsystem)")
	}
	stream := struct {
		io.Reader
		io.Writer
	}{jobs.TakeReader(ctx, out), in}
	s := &session{framer: newFramer(stream, maxHello), room: room}
	if err := s.hello(); err != nil {
		return nil, loginFault(ctx, err, "the device did not say hello as NETCONF wants it")
	}
	s.limit = room
	if s.chunked {
		pause(ctx, helloPause)
	}
	return s, nil
}

func loginFault(ctx context.Context, err error, what string) *jobs.Fault {
	switch {
	case ctx.Err() != nil:
		return jobs.Faultf(jobs.CodeTimeout, jobs.StageLogin, "NETCONF did not open in time")
	case secureshell.Lost(err):
		return jobs.Faultf(jobs.CodeUnreachable, jobs.StageLogin, "%s: the connection or the session was closed", what)
	default:
		return jobs.Faultf(jobs.CodeProtocolError, jobs.StageLogin, "%s", what)
	}
}

func (s *session) hello() error {
	if err := s.write([]byte(clientHello)); err != nil {
		return err
	}
	message, err := s.read()
	if err != nil {
		return err
	}
	var h hello
	if err := xml.Unmarshal(message, &h); err != nil {
		return err
	}
	for i := range h.Capabilities {
		h.Capabilities[i] = strings.TrimSpace(h.Capabilities[i])
	}
	s.data = data{SessionID: strings.TrimSpace(h.SessionID), Version: "1.0", Capabilities: h.Capabilities}
	switch {
	case slices.Contains(h.Capabilities, base11):
		s.data.Version, s.chunked = "1.1", true
	case !slices.Contains(h.Capabilities, base10) && !slices.Contains(h.Capabilities, namespace):
		return errors.New("netconf: no common version")
	}
	return nil
}

// all calls the operations in their order.
func (s *session) all(ctx context.Context, p *params) *jobs.Fault {
	for _, name := range p.names {
		s.data.Replies = append(s.data.Replies, reply{Operation: name, State: stateNotSent})
	}
	for i, operation := range p.RPC {
		if fault := s.call(ctx, i, operation); fault != nil {
			return fault
		}
	}
	return nil
}

// rpcReply is a reply of RFC 6241, 4.2.
type rpcReply struct {
	XMLName   xml.Name
	MessageID string     `xml:"message-id,attr"`
	Errors    []rpcError `xml:"rpc-error"`
	Inner     string     `xml:",innerxml"`
}

// rpcError is an error of RFC 6241, 4.3.
type rpcError struct {
	Type     string `xml:"error-type" json:"type"`
	Tag      string `xml:"error-tag" json:"tag"`
	Severity string `xml:"error-severity" json:"severity"`
	AppTag   string `xml:"error-app-tag" json:"app_tag,omitempty"`
	Path     string `xml:"error-path" json:"path,omitempty"`
	Message  string `xml:"error-message" json:"message,omitempty"`
}

func (s *session) call(ctx context.Context, i int, operation string) *jobs.Fault {
	r := &s.data.Replies[i]
	start := time.Now()
	defer func() { r.DurationMS = time.Since(start).Milliseconds() }()
	id := strconv.Itoa(i + 1)
	r.State = stateSent
	message := fmt.Sprintf(`%s<rpc xmlns=%q message-id=%q>%s</rpc>`, xml.Header, namespace, id, operation)
	if err := s.write([]byte(message)); err != nil {
		return s.fault(ctx, i, err)
	}
	answer, err := s.answer(id)
	if err != nil {
		return s.fault(ctx, i, err)
	}
	r.State = stateAcknowledged
	r.XML = strings.TrimSpace(answer.Inner)
	if !utf8.ValidString(r.XML) {
		return s.fault(ctx, i, errFraming)
	}
	s.room -= len(r.XML) + 5*strings.Count(r.XML, "<") + 5*strings.Count(r.XML, ">") // as JSON writes it
	if s.limit = s.room; s.room < 0 {
		r.XML = ""
		return s.fault(ctx, i, errTooLong)
	}
	for _, e := range answer.Errors {
		r.Errors = append(r.Errors, e.trimmed())
	}
	for _, e := range r.Errors {
		if e.Severity != "warning" {
			return s.refused(i, e)
		}
	}
	return nil
}

// answer reads up to the reply with an id.
func (s *session) answer(id string) (*rpcReply, error) {
	for range maxStray {
		message, err := s.read()
		if err != nil {
			return nil, err
		}
		var r rpcReply
		if err := xml.Unmarshal(message, &r); err != nil {
			return nil, errFraming
		}
		// A device that could not read the request may leave the id out.
		if r.XMLName.Local == "rpc-reply" && (r.MessageID == id || r.MessageID == "" && len(r.Errors) > 0) {
			return &r, nil
		}
	}
	return nil, errFraming
}

func (e rpcError) trimmed() rpcError {
	for _, field := range []*string{&e.Type, &e.Tag, &e.Severity, &e.AppTag, &e.Path, &e.Message} {
		*field = strings.TrimSpace(*field)
	}
	return e
}

func (s *session) refused(i int, e rpcError) *jobs.Fault {
	text := e.Tag
	if e.Message != "" {
		text += ": " + e.Message
	}
	if len(text) > 300 {
		text = strings.ToValidUTF8(text[:300], "") + "…"
	}
	return jobs.Faultf(jobs.CodeCommandError, jobs.StageExecute, "the device refused operation %d of %d (%s): %s",
		i+1, len(s.data.Replies), s.data.Replies[i].Operation, text)
}

func (s *session) fault(ctx context.Context, i int, err error) *jobs.Fault {
	code, text := jobs.CodeUnreachable, "the device closed the session before its reply"
	switch {
	case ctx.Err() != nil:
		code, text = jobs.CodeTimeout, "no reply came in time"
	case errors.Is(err, errTooLong):
		code, text = jobs.CodeResultTooLarge, "the reply is larger than the result may be; ask with a filter or raise limits.max_result_bytes"
	case errors.Is(err, errFraming):
		code, text = jobs.CodeProtocolError, "the reply cannot be read as NETCONF"
	}
	return jobs.Faultf(code, jobs.StageExecute, "operation %d of %d (%s): %s", i+1, len(s.data.Replies), s.data.Replies[i].Operation, text)
}
