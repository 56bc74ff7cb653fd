package broker

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"usm-satellite/jobs"
)

const (
	managementTimeout = 15 * time.Second
	managementMaxBody = 32 << 20
	closePause        = 200 * time.Millisecond
)

// ErrNotFound is what the management API says of a thing that is not there.
var ErrNotFound = errors.New("not found")

// Management is a client of RabbitMQ's management HTTP API
// (https://www.rabbitmq.com/docs/http-api-reference), with what enrolment and
// revocation need of it.
type Management struct {
	base     url.URL
	username string
	password jobs.Secret
	client   *http.Client
}

// NewManagement makes a client of the API at address, as
// http://127.0.0.1:15672, that logs in as the given user unless the address
// holds another. Its errors do not quote the address.
func NewManagement(address, username string, password jobs.Secret, config *tls.Config) (*Management, error) {
	base, err := url.Parse(address)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, errors.New("must be as http://127.0.0.1:15672 or https://broker.example.net:15671")
	}
	if base.User != nil {
		given, _ := base.User.Password()
		username, password = base.User.Username(), jobs.NewSecret(given)
	}
	return &Management{
		base:     url.URL{Scheme: base.Scheme, Host: base.Host, Path: base.Path},
		username: username,
		password: password,
		client:   &http.Client{Timeout: managementTimeout, Transport: &http.Transport{TLSClientConfig: config}},
	}, nil
}

// Permissions are three regular expressions over names
// (https://www.rabbitmq.com/docs/access-control).
type Permissions struct {
	Configure string `json:"configure"`
	Write     string `json:"write"`
	Read      string `json:"read"`
}

// TopicPermissions are regular expressions over the routing keys of a topic exchange.
type TopicPermissions struct {
	Exchange string `json:"exchange"`
	Write    string `json:"write"`
	Read     string `json:"read"`
}

// HasUser says whether there is a user of that name.
func (m *Management) HasUser(ctx context.Context, name string) (bool, error) {
	err := m.call(ctx, http.MethodGet, []string{"users", name}, nil, nil)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// PutUser makes a user without tags, or gives it a new password.
func (m *Management) PutUser(ctx context.Context, name string, password jobs.Secret) error {
	return m.call(ctx, http.MethodPut, []string{"users", name}, map[string]string{"password": password.Reveal(), "tags": ""}, nil)
}

// DeleteUser removes a user; one that is not there is ErrNotFound.
func (m *Management) DeleteUser(ctx context.Context, name string) error {
	return m.call(ctx, http.MethodDelete, []string{"users", name}, nil, nil)
}

// PutPermissions sets what a user may do in a virtual host.
func (m *Management) PutPermissions(ctx context.Context, vhost, user string, p Permissions) error {
	return m.call(ctx, http.MethodPut, []string{"permissions", vhost, user}, p, nil)
}

// PutTopicPermissions sets the routing keys that a user may use on an exchange.
func (m *Management) PutTopicPermissions(ctx context.Context, vhost, user string, p TopicPermissions) error {
	return m.call(ctx, http.MethodPut, []string{"topic-permissions", vhost, user}, p, nil)
}

// EnsureExchange makes a durable topic exchange unless one of that name is there.
func (m *Management) EnsureExchange(ctx context.Context, vhost, name string) (made bool, err error) {
	return m.ensure(ctx, []string{"exchanges", vhost, name}, map[string]any{"type": "topic", "durable": true})
}

// EnsureQueue makes a durable quorum queue unless a queue of that name is
// there; its arguments are then left as they are.
func (m *Management) EnsureQueue(ctx context.Context, vhost, name string) (made bool, err error) {
	return m.ensure(ctx, []string{"queues", vhost, name}, map[string]any{
		"durable": true, "arguments": map[string]any{"x-queue-type": "quorum"},
	})
}

func (m *Management) ensure(ctx context.Context, path []string, body any) (bool, error) {
	err := m.call(ctx, http.MethodGet, path, nil, nil)
	if !errors.Is(err, ErrNotFound) {
		return false, err
	}
	return true, m.call(ctx, http.MethodPut, path, body, nil)
}

// DeleteQueue removes a queue and the jobs in it.
func (m *Management) DeleteQueue(ctx context.Context, vhost, name string) error {
	return m.call(ctx, http.MethodDelete, []string{"queues", vhost, name}, nil, nil)
}

// Bind binds a queue to an exchange.
func (m *Management) Bind(ctx context.Context, vhost, exchange, queue, key string) error {
	return m.call(ctx, http.MethodPost, []string{"bindings", vhost, "e", exchange, "q", queue}, map[string]string{"routing_key": key}, nil)
}

// CloseConnections closes the connections of a user and says how many it
// closed. It looks again until there is none: the API learns of a connection
// a moment after the broker.
func (m *Management) CloseConnections(ctx context.Context, user string) (int, error) {
	closed := map[string]bool{}
	for quiet := 0; quiet < 2; {
		names, err := m.connections(ctx, user)
		if err != nil {
			return len(closed), err
		}
		quiet++
		for _, name := range names {
			quiet = 0
			err := m.call(ctx, http.MethodDelete, []string{"connections", name}, nil, nil)
			if err != nil && !errors.Is(err, ErrNotFound) {
				return len(closed), err
			}
			closed[name] = true
		}
		if err := pause(ctx, closePause); err != nil {
			return len(closed), err
		}
	}
	return len(closed), nil
}

// pause waits; the error is that of a context which ended before.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *Management) connections(ctx context.Context, user string) ([]string, error) {
	var all []struct {
		Name string `json:"name"`
		User string `json:"user"`
	}
	if err := m.call(ctx, http.MethodGet, []string{"connections"}, nil, &all); err != nil {
		return nil, err
	}
	var names []string
	for _, c := range all {
		if c.User == user {
			names = append(names, c.Name)
		}
	}
	return names, nil
}

// call does one request. Its errors name the thing, never what was sent.
func (m *Management) call(ctx context.Context, method string, path []string, body, answer any) error {
	request, err := m.request(ctx, method, path, body)
	if err != nil {
		return err
	}
	response, err := m.client.Do(request)
	if err != nil {
		var urlErr *url.Error
		if errors.As(err, &urlErr) {
			err = urlErr.Err
		}
		return fmt.Errorf("management API at %s: %w", m.base.Host, err)
	}
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(io.LimitReader(response.Body, managementMaxBody))
	if err != nil {
		return fmt.Errorf("management API at %s: %w", m.base.Host, err)
	}
	if response.StatusCode >= http.StatusBadRequest {
		return m.refusal(response.StatusCode, method, path, content)
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(content, answer); err != nil {
		return fmt.Errorf("management API at %s: the answer about %s cannot be read", m.base.Host, path[0])
	}
	return nil
}

func (m *Management) request(ctx context.Context, method string, path []string, body any) (*http.Request, error) {
	var content io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode a request about %s: %w", path[0], err)
		}
		content = bytes.NewReader(encoded)
	}
	target := m.base.JoinPath("api")
	for _, part := range path { // JoinPath would clean "/" and ".." away
		target.RawPath = target.EscapedPath() + "/" + url.PathEscape(part)
		target.Path += "/" + part
	}
	request, err := http.NewRequestWithContext(ctx, method, target.String(), content)
	if err != nil {
		return nil, errors.New("the address of the management API cannot be used")
	}
	request.SetBasicAuth(m.username, m.password.Reveal())
	request.Header.Set("Content-Type", "application/json")
	if path[0] == "connections" {
		request.Header.Set("X-Reason", "closed by satctl revoke")
	}
	return request, nil
}

func (m *Management) refusal(status int, method string, path []string, content []byte) error {
	what := path[0]
	if len(path) > 1 {
		what = fmt.Sprintf("%s %q", path[0], path[len(path)-1])
	}
	switch status {
	case http.StatusNotFound:
		return fmt.Errorf("%s: %w", what, ErrNotFound)
	case http.StatusUnauthorized:
		return fmt.Errorf("the management API at %s refused the login of the user %q, or the user lacks the tag administrator", m.base.Host, m.username)
	}
	var said struct {
		Reason string `json:"reason"`
	}
	if path[0] == "users" || json.Unmarshal(content, &said) != nil || said.Reason == "" {
		return fmt.Errorf("the management API refused %s of %s with status %d", method, what, status)
	}
	return fmt.Errorf("the management API refused %s of %s: %s", method, what, said.Reason)
}
