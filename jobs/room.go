package jobs

import (
	"context"
	"io"
	"math"
	"slices"
	"sync"
	"sync/atomic"
)

// A byte of a result is held several times on its way: as the driver collected
// it, encoded, in the answer, and in the buffers of the connection.
const copiesOfResult = 6

// DefaultRoomBytes is what results may take together where nothing limits the
// memory of the process.
const DefaultRoomBytes = 256 << 20

// Room bounds what the results of all jobs in hand take together. A job that
// collects asks for room as it goes (Take), and waits while others have it
// all. The one that has held some for the longest never waits, and neither do
// writes: so that there always is one that comes to its end and gives back.
type Room struct {
	limit int64

	mu    sync.Mutex
	held  int64         // guarded by mu
	order []*share      // that hold some, the first one first. Guarded by mu
	freed chan struct{} // closed when some was given back. Guarded by mu
}

// NewRoom returns the room of a process whose memory is limited to so many
// bytes; math.MaxInt64, or 0: it is not.
func NewRoom(memory int64) *Room {
	r := &Room{limit: DefaultRoomBytes, freed: make(chan struct{})}
	if memory > 0 && memory < math.MaxInt64 {
		r.limit = min(r.limit, memory/2/copiesOfResult)
	}
	return r
}

// Bytes returns how large the room is, in bytes of results.
func (r *Room) Bytes() int64 { return r.limit }

// share is what one job holds of the room.
type share struct {
	room  *Room
	waits bool  // where there is none
	held  int64 // guarded by room.mu

	starved atomic.Bool // it waited until its job had to end
}

func (r *Room) share(class Class) *share { return &share{room: r, waits: class != Write} }

var errNoRoom = Faultf(CodeBusy, StageExecute,
	"the results of other jobs took all the memory that the satellite has for them, for longer than the job's own time limit; ask again, or give it more memory")

func (s *share) take(ctx context.Context, n int64) error {
	for {
		freed, ok := s.tryTake(n)
		if ok {
			return nil
		}
		select {
		case <-freed:
		case <-ctx.Done():
			s.starved.Store(true)
			return context.Cause(ctx)
		}
	}
}

func (s *share) tryTake(n int64) (freed <-chan struct{}, ok bool) {
	r := s.room
	r.mu.Lock()
	defer r.mu.Unlock()
	first := len(r.order) == 0 || r.order[0] == s
	if s.waits && !first && r.held+n > r.limit {
		return r.freed, false
	}
	if s.held == 0 && n > 0 {
		r.order = append(r.order, s)
	}
	s.held += n
	r.held += n
	return nil, true
}

// release gives everything back.
func (s *share) release() {
	r := s.room
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.held == 0 {
		return
	}
	r.held -= s.held
	s.held = 0
	i := slices.Index(r.order, s)
	r.order = slices.Delete(r.order, i, i+1)
	close(r.freed)
	r.freed = make(chan struct{})
}

type shareKey struct{}

func withShare(ctx context.Context, s *share) context.Context {
	return context.WithValue(ctx, shareKey{}, s)
}

// Take asks for room for n more bytes of the result of the job that ctx
// belongs to, and waits while the results of other jobs take all of it. The
// error is the cause of ctx, which ended before there was room.
func Take(ctx context.Context, n int) error {
	s, ok := ctx.Value(shareKey{}).(*share)
	if !ok {
		return nil
	}
	return s.take(ctx, int64(n))
}

// TakeReader returns a reader that takes room for all that it reads. Its
// errors are those of r and of Take.
func TakeReader(ctx context.Context, r io.Reader) io.Reader { return &takeReader{ctx, r} }

type takeReader struct {
	ctx context.Context
	r   io.Reader
}

func (t *takeReader) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if n > 0 {
		if takeErr := Take(t.ctx, n); takeErr != nil {
			return n, takeErr
		}
	}
	return n, err
}
