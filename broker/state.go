package broker

import (
	"sync"
	"time"
)

// State is what a session can say of itself, for health and status.
type State struct {
	Connected   bool
	Transport   string    // of the link in use, or of the last one
	Since       time.Time // of Connected, either way
	Blocked     bool      // the broker asks publishers to wait
	Problem     string    // the last one; "" once connected for a while
	Attempts    int       // failed in a row
	Connections int       // since the start
	Unroutable  uint64    // times that the broker had no queue for a result
}

type state struct {
	mu   sync.Mutex
	s    State
	said map[string]bool
}

// State returns how the session stands.
func (s *Session) State() State {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	return s.state.s
}

func (st *state) change(f func(*State)) {
	st.mu.Lock()
	defer st.mu.Unlock()
	f(&st.s)
}

func (st *state) connected(transport string) {
	st.change(func(s *State) {
		s.Connected, s.Transport, s.Since, s.Problem, s.Attempts = true, transport, time.Now(), "", 0
		s.Connections++
		s.Blocked = false
	})
}

func (st *state) disconnected() {
	st.change(func(s *State) { s.Connected, s.Since = false, time.Now() })
}

func (st *state) failed(p *Problem) (attempts int, fresh bool) {
	st.change(func(s *State) {
		fresh = s.Problem != p.Message
		s.Problem = p.Message
		s.Attempts++
		attempts = s.Attempts
	})
	return attempts, fresh
}

func (st *state) blocked(active bool) { st.change(func(s *State) { s.Blocked = active }) }
func (st *state) unroutable()         { st.change(func(s *State) { s.Unroutable++ }) }

// once does f the first time that it is called with this name.
func (st *state) once(name string, f func()) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.said[name] {
		return
	}
	if st.said == nil {
		st.said = make(map[string]bool)
	}
	st.said[name] = true
	f()
}
