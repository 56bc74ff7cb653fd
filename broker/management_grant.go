package broker

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"

	"usm-satellite/jobs"
)

// Grant is the least that a satellite needs of a broker: a user of its own
// that may consume one queue and publish to one exchange (and the exchange of
// the heartbeats) under one routing key. It may declare nothing, publish into
// no queue, and read nobody's results.
type Grant struct {
	VHost           string
	User            string
	Password        jobs.Secret
	Queue           string // of the jobs
	ResultsExchange string
	StatusExchange  string // empty: none
	ResultsQueue    string // of the core, bound to the exchange; empty: the core binds its own
	RoutingKey      string // as sat.7
}

// Permissions returns the rights of the user.
func (g Grant) Permissions() Permissions {
	write := regexp.QuoteMeta(g.ResultsExchange)
	if g.StatusExchange != "" {
		write = "(" + write + "|" + regexp.QuoteMeta(g.StatusExchange) + ")"
	}
	return Permissions{Configure: "^$", Write: "^" + write + "$", Read: "^" + regexp.QuoteMeta(g.Queue) + "$"}
}

// TopicPermissions returns the routing keys that the user may use.
func (g Grant) TopicPermissions() []TopicPermissions {
	var all []TopicPermissions
	for _, exchange := range g.exchanges() {
		all = append(all, TopicPermissions{Exchange: exchange, Write: "^" + regexp.QuoteMeta(g.RoutingKey) + "$", Read: "^$"})
	}
	return all
}

func (g Grant) exchanges() []string {
	if g.StatusExchange == "" {
		return []string{g.ResultsExchange}
	}
	return []string{g.ResultsExchange, g.StatusExchange}
}

// Apply makes the queues, the exchanges and the user. What is there already is
// left as it is, but for the user, who gets the password and the rights.
func (m *Management) Apply(ctx context.Context, g Grant) error {
	for _, exchange := range g.exchanges() {
		if _, err := m.EnsureExchange(ctx, g.VHost, exchange); err != nil {
			return err
		}
	}
	if _, err := m.EnsureQueue(ctx, g.VHost, g.Queue); err != nil {
		return err
	}
	if g.ResultsQueue != "" {
		if _, err := m.EnsureQueue(ctx, g.VHost, g.ResultsQueue); err != nil {
			return err
		}
		if err := m.Bind(ctx, g.VHost, g.ResultsExchange, g.ResultsQueue, "#"); err != nil {
			return err
		}
	}
	if err := m.PutUser(ctx, g.User, g.Password); err != nil {
		return err
	}
	for _, topic := range g.TopicPermissions() { // before the rights that they narrow
		err := m.PutTopicPermissions(ctx, g.VHost, g.User, topic)
		if err != nil {
			return err
		}
	}
	return m.PutPermissions(ctx, g.VHost, g.User, g.Permissions())
}

// Withdraw deletes the user and closes its connections. It reports how many
// were open, and whether there was such a user at all.
func (m *Management) Withdraw(ctx context.Context, user string) (closed int, existed bool, err error) {
	err = m.DeleteUser(ctx, user)
	existed = err == nil
	if err != nil && !errors.Is(err, ErrNotFound) {
		return 0, false, err
	}
	closed, err = m.CloseConnections(ctx, user)
	return closed, existed, err
}

// Definitions returns the grant as a file for "rabbitmqctl import_definitions".
// It holds the password as a salted hash.
func (g Grant) Definitions() ([]byte, error) {
	topics := make([]map[string]string, 0, len(g.exchanges()))
	exchanges := make([]map[string]any, 0, len(g.exchanges()))
	for _, t := range g.TopicPermissions() {
		topics = append(topics, map[string]string{"user": g.User, "vhost": g.VHost, "exchange": t.Exchange, "write": t.Write, "read": t.Read})
		exchanges = append(exchanges, map[string]any{
			"name": t.Exchange, "vhost": g.VHost, "type": "topic", "durable": true,
			"auto_delete": false, "internal": false, "arguments": map[string]any{},
		})
	}
	queues, bindings := []map[string]any{g.queue(g.Queue)}, []map[string]any{}
	if g.ResultsQueue != "" {
		queues = append(queues, g.queue(g.ResultsQueue))
		bindings = append(bindings, map[string]any{
			"source": g.ResultsExchange, "vhost": g.VHost, "destination": g.ResultsQueue,
			"destination_type": "queue", "routing_key": "#", "arguments": map[string]any{},
		})
	}
	p := g.Permissions()
	file, err := json.MarshalIndent(map[string]any{
		"users": []map[string]any{{
			"name": g.User, "password_hash": passwordHash(g.Password),
			"hashing_algorithm": "rabbit_password_hashing_sha256", "tags": "",
		}},
		"permissions":       []map[string]string{{"user": g.User, "vhost": g.VHost, "configure": p.Configure, "write": p.Write, "read": p.Read}},
		"topic_permissions": topics,
		"exchanges":         exchanges,
		"queues":            queues,
		"bindings":          bindings,
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the definitions: %w", err)
	}
	return append(file, '\n'), nil
}

func (g Grant) queue(name string) map[string]any {
	return map[string]any{
		"name": name, "vhost": g.VHost, "durable": true, "auto_delete": false,
		"arguments": map[string]any{"x-queue-type": "quorum"},
	}
}

// passwordHash is the broker's own form: a salt of 32 bits, SHA-256 of salt
// and password (https://www.rabbitmq.com/docs/passwords).
func passwordHash(password jobs.Secret) string {
	salt := make([]byte, 4)
	_, _ = rand.Read(salt) // never fails: crypto/rand
	sum := sha256.Sum256(append(salt[:4:4], password.Reveal()...))
	return base64.StdEncoding.EncodeToString(append(salt, sum[:]...))
}
