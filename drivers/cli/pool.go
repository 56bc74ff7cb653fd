package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	"usm-satellite/drivers/secureshell"
	"usm-satellite/jobs"
)

// maxKept bounds the sessions that wait for a next job.
const maxKept = 256

// kept is a session between two jobs.
type kept struct {
	session *session
	conn    interface{ SetDeadline(t time.Time) error }
	learned learned
	timer   *time.Timer
}

// pool keeps sessions for the next job of the same device, with the same
// login and platform. Each is closed after an idle time: a device has few
// lines, and a person may need one.
type pool struct {
	idle time.Duration

	mu     sync.Mutex // guards what is below
	free   map[string]*kept
	closed bool
}

func newPool(idle time.Duration) *pool {
	return &pool{idle: idle, free: map[string]*kept{}}
}

// poolKey is equal for jobs that may share a session. It is a hash: it holds
// the credentials.
func poolKey(job *jobs.Job, p *params) string {
	h := sha256.New()
	enable := p.Enable != nil && *p.Enable
	fmt.Fprintf(h, "%q %d %q %q %t %t %t\n", job.Target.Address, job.Target.Port, p.Transport, p.HostKey, p.LegacyCrypto, p.Enable != nil, enable)
	fmt.Fprintf(h, "%#v\n", p.platform.Platform)
	for _, c := range job.Credentials {
		if l := c.Login; l != nil {
			fmt.Fprintf(h, "%q %q %q %q %q\n", l.Username, l.Password.Reveal(), l.PrivateKey.Reveal(), l.Passphrase.Reveal(), l.EnablePassword.Reveal())
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// close ends all that is kept. Nothing is kept from then on.
func (p *pool) close() {
	p.mu.Lock()
	free := p.free
	p.free, p.closed = nil, true
	p.mu.Unlock()
	for _, k := range free {
		if k.timer.Stop() {
			k.session.Close()
		}
	}
}

// take returns a kept session that is still alive, or nil.
func (p *pool) take(ctx context.Context, key string) *kept {
	p.mu.Lock()
	k := p.free[key]
	delete(p.free, key)
	p.mu.Unlock()
	if k == nil || !k.timer.Stop() {
		return nil // or its timer has just closed it
	}
	if !k.session.idle() || secureshell.BindDeadline(ctx, k.conn) != nil {
		k.session.Close()
		return nil
	}
	return k
}

// put keeps a session, or closes it where nothing may be kept.
func (p *pool) put(key string, k *kept) {
	if k.conn.SetDeadline(time.Now().Add(p.idle+time.Minute)) != nil || !p.keep(key, k) {
		k.session.Close()
	}
}

func (p *pool) keep(key string, k *kept) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.idle <= 0 || p.closed || p.free[key] != nil || len(p.free) >= maxKept {
		return false
	}
	k.timer = time.AfterFunc(p.idle, func() {
		p.mu.Lock()
		if p.free[key] == k {
			delete(p.free, key)
		}
		p.mu.Unlock()
		k.session.Close()
	})
	p.free[key] = k
	return true
}
