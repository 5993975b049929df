package backendtest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
)

// ErrInjected is wrapped by every error that Faulty makes up.
var ErrInjected = errors.New("injected fault")

// Faults says what goes wrong, and how often. Probabilities are from 0 to 1.
// The zero value is a Backend without faults.
type Faults struct {
	// Seed makes the faults those of every run with this seed, as far as the calls
	// come in the same order.
	Seed uint64
	// Latency is how much longer a call takes at most: a part of it passes before
	// the server gets the call, and a part before the caller gets the answer.
	Latency time.Duration
	// Unavailable is how often a call fails with ErrUnavailable before it is sent.
	Unavailable float64
	// LostAnswer is how often the answer to a write is lost after it took effect.
	// The wrapper reads back, as a driver must. Where that does not confirm the
	// write, it ends the lease and gives ErrOutcomeUnknown.
	LostAnswer float64
	// Unclear is how many of the lost answers cannot be read back either.
	Unclear float64
	// Hiccup is how often an event of a watch finds the connection broken: the
	// reader is told Down, and after up to three events the difference and Synced.
	Hiccup float64
}

// An Op is a kind of call to which FaultyBackend can do something.
type Op string

// The calls of naming.Backend and naming.Lease.
const (
	OpLease      Op = "lease"
	OpGet        Op = "get"
	OpClaim      Op = "claim"
	OpUpdate     Op = "update"
	OpRelease    Op = "release"
	OpCloseLease Op = "close lease"
)

// A FaultyBackend is a Backend in which things go wrong as they do with a driver
// on a bad network: it keeps the contract of naming.Backend if the wrapped one
// does. Its methods may be called from any goroutine.
type FaultyBackend struct {
	inner naming.Backend
	work  sync.WaitGroup // undoing of cancelled writes

	mu     sync.Mutex
	closed bool
	faults Faults
	rand   *rand.Rand
	next   map[Op][]error
	lose   map[Op]int
}

var (
	_ naming.Backend    = (*FaultyBackend)(nil)
	_ naming.Describer  = (*FaultyBackend)(nil)
	_ naming.Identifier = (*FaultyBackend)(nil)
)

// Faulty wraps b. The wrapper owns b and closes it.
func Faulty(b naming.Backend, f Faults) *FaultyBackend {
	fb := &FaultyBackend{inner: b, next: make(map[Op][]error), lose: make(map[Op]int)}
	fb.Set(f)
	return fb
}

// Set changes the faults from now on.
func (b *FaultyBackend) Set(f Faults) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults = f
	b.rand = rand.New(rand.NewPCG(f.Seed, 0)) //nolint:gosec // repeatable on purpose
}

// FailNext makes the next call of op fail with err before it is sent. Called
// several times, it is for as many calls.
func (b *FaultyBackend) FailNext(op Op, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.next[op] = append(b.next[op], err)
}

// LoseNext makes the next call of op, a write, take effect and then end the
// lease and give ErrOutcomeUnknown.
func (b *FaultyBackend) LoseNext(op Op) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lose[op]++
}

// fate is what will happen to one call.
type fate struct {
	before, after time.Duration
	err           error // instead of the call
	lost, unclear bool  // the answer
}

func (b *FaultyBackend) draw(op Op) fate {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.faults
	var out fate
	if f.Latency > 0 {
		out.before = time.Duration(b.rand.Int64N(int64(f.Latency)))
		out.after = time.Duration(b.rand.Int64N(int64(f.Latency - out.before)))
	}
	if b.rand.Float64() < f.Unavailable {
		out.err = naming.ErrUnavailable
	}
	out.lost = b.rand.Float64() < f.LostAnswer
	out.unclear = out.lost && b.rand.Float64() < f.Unclear
	if queue := b.next[op]; len(queue) > 0 {
		out.err, b.next[op] = queue[0], queue[1:]
	}
	if b.lose[op] > 0 && out.err == nil {
		b.lose[op]--
		out.unclear = true
	}
	return out
}

// begin lets the time before the call pass, and fails it if that is its fate.
func (b *FaultyBackend) begin(ctx context.Context, op Op, name naming.Name) (fate, error) {
	f := b.draw(op)
	if err := pass(ctx, f.before); err != nil {
		return f, b.fail(op, name, err)
	}
	if f.err != nil {
		return f, b.fail(op, name, fmt.Errorf("%w: %w", f.err, ErrInjected))
	}
	return f, nil
}

// pass waits for d, or for the end of ctx and gives its error.
func pass(ctx context.Context, d time.Duration) error {
	if err := ctx.Err(); err != nil || d == 0 {
		return err
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (b *FaultyBackend) fail(op Op, name naming.Name, err error) error {
	return &naming.Error{Op: string(op), Name: name, Backend: b.Describe().Driver, Err: err}
}

// Get implements naming.Backend.
func (b *FaultyBackend) Get(ctx context.Context, name naming.Name) (naming.Entry, error) {
	f, err := b.begin(ctx, OpGet, name)
	if err != nil {
		return naming.Entry{}, err
	}
	e, err := b.inner.Get(ctx, name)
	if late := pass(ctx, f.after); late != nil {
		return naming.Entry{}, b.fail(OpGet, name, late)
	}
	return e, err
}

// Lease implements naming.Backend.
func (b *FaultyBackend) Lease(ctx context.Context, ttl time.Duration) (naming.Lease, error) {
	f, err := b.begin(ctx, OpLease, naming.Name{})
	if err != nil {
		return nil, err
	}
	l, err := b.inner.Lease(ctx, ttl)
	if err != nil {
		return nil, err
	}
	if late := pass(ctx, f.after); late != nil {
		b.background(func() { _ = l.Close(context.WithoutCancel(ctx)) })
		return nil, b.fail(OpLease, naming.Name{}, late)
	}
	return &faultyLease{Lease: l, b: b, busy: make(map[naming.Name]chan struct{})}, nil
}

// Describe implements naming.Describer.
func (b *FaultyBackend) Describe() naming.Description { return naming.Describe(b.inner) }

// WhoAmI implements naming.Identifier. A wrapped Backend that cannot say it is
// nobody: "".
func (b *FaultyBackend) WhoAmI(ctx context.Context) (string, error) {
	if id, ok := b.inner.(naming.Identifier); ok {
		return id.WhoAmI(ctx)
	}
	return "", nil
}

// Close implements naming.Backend.
func (b *FaultyBackend) Close() error {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	err := b.inner.Close() // first: it ends what the work below may be waiting for
	b.work.Wait()
	return err
}

// background runs f, and Close waits for it.
func (b *FaultyBackend) background(f func()) {
	b.mu.Lock()
	closed := b.closed
	if !closed {
		b.work.Go(f)
	}
	b.mu.Unlock()
	if closed {
		f() // which ends at once: Close has ended every lease
	}
}

// Watch implements naming.Backend.
func (b *FaultyBackend) Watch(ctx context.Context, scope naming.Scope) iter.Seq2[naming.Event, error] {
	return func(yield func(naming.Event, error) bool) {
		r := faultyWatch{told: make(map[naming.Name]naming.Revision)}
		for ev, err := range b.inner.Watch(ctx, scope) {
			if err != nil {
				yield(ev, err)
				return
			}
			for _, ev := range r.events(ev, b.hiccup()) {
				if !yield(ev, nil) {
					return
				}
			}
		}
	}
}

// hiccup says how many events the connection is broken, 0 for not at all.
func (b *FaultyBackend) hiccup() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rand.Float64() < b.faults.Hiccup {
		return 1 + b.rand.IntN(3)
	}
	return 0
}

// faultyWatch breaks a watch and mends it again.
type faultyWatch struct {
	told   map[naming.Name]naming.Revision // what the reader knows to be there
	missed []naming.Event                  // while broken: the last of each name
	synced bool                            // the wrapped watch is in order
	broken bool                            // Down was told, and Synced was not told since
	left   int                             // events until the connection is back
}

// events turns the next event of the wrapped watch into what the reader is told.
func (w *faultyWatch) events(ev naming.Event, hiccup int) (out []naming.Event) {
	if hiccup > 0 && !w.broken {
		w.broken, w.left = true, hiccup
		out = append(out, naming.Event{Kind: naming.Down, Err: &naming.Error{Op: "watch", Err: fmt.Errorf("%w: %w", naming.ErrUnavailable, ErrInjected)}})
	}
	switch ev.Kind {
	case naming.Synced:
		w.synced = true
	case naming.Down:
		w.synced = false
	}
	if !w.broken {
		w.broken = ev.Kind == naming.Down
		return append(out, w.tell(ev)...)
	}
	switch ev.Kind {
	case naming.Put, naming.Delete:
		for i, m := range w.missed {
			if m.Entry.Name == ev.Entry.Name {
				w.missed = append(w.missed[:i], w.missed[i+1:]...)
				break
			}
		}
		w.missed = append(w.missed, ev)
	}
	if w.left--; w.left > 0 || !w.synced {
		return out
	}
	for _, m := range w.missed {
		out = append(out, w.tell(m)...)
	}
	w.missed, w.broken = nil, false
	return append(out, naming.Event{Kind: naming.Synced})
}

// tell leaves out the deletion of what the reader was never told.
func (w *faultyWatch) tell(ev naming.Event) []naming.Event {
	switch ev.Kind {
	case naming.Put:
		w.told[ev.Entry.Name] = ev.Entry.Revision
	case naming.Delete:
		if _, known := w.told[ev.Entry.Name]; !known {
			return nil
		}
		delete(w.told, ev.Entry.Name)
	}
	return []naming.Event{ev}
}

// faultyLease wraps a lease.
type faultyLease struct {
	naming.Lease
	b *FaultyBackend

	mu    sync.Mutex
	busy  map[naming.Name]chan struct{} // closed when the last write to the name is decided
	ended bool                          // by an outcome that stayed unknown
}

// Claim implements naming.Lease.
func (l *faultyLease) Claim(ctx context.Context, name naming.Name, value []byte, over naming.Revision) (rev naming.Revision, err error) {
	err = l.write(ctx, OpClaim, name, func() error {
		rev, err = l.Lease.Claim(ctx, name, value, over)
		return err
	}, func() bool { return l.isThere(ctx, name, rev) })
	if err != nil {
		return 0, err
	}
	return rev, nil
}

// Update implements naming.Lease.
func (l *faultyLease) Update(ctx context.Context, name naming.Name, value []byte, prev naming.Revision) (rev naming.Revision, err error) {
	err = l.write(ctx, OpUpdate, name, func() error {
		rev, err = l.Lease.Update(ctx, name, value, prev)
		return err
	}, func() bool { return l.isThere(ctx, name, rev) })
	if err != nil {
		return 0, err
	}
	return rev, nil
}

// Release implements naming.Lease.
func (l *faultyLease) Release(ctx context.Context, name naming.Name) error {
	return l.write(ctx, OpRelease, name, func() error {
		if l.isEnded() { // a lease that is gone holds nothing
			return l.Lease.Close(ctx)
		}
		return l.Lease.Release(ctx, name)
	}, func() bool { return l.Lease.Release(context.WithoutCancel(ctx), name) == nil })
}

func (l *faultyLease) isThere(ctx context.Context, name naming.Name, rev naming.Revision) bool {
	e, err := l.b.inner.Get(context.WithoutCancel(ctx), name) // also for a caller who is gone: the write is there
	return err == nil && e.Revision == rev
}

// Close implements naming.Lease.
func (l *faultyLease) Close(ctx context.Context) error {
	if _, err := l.b.begin(ctx, OpCloseLease, naming.Name{}); err != nil {
		ended, cancel := context.WithCancel(ctx)
		cancel()
		_ = l.Lease.Close(ended) // asks nothing of the server, but renewal stops in any case
		return err
	}
	return l.Lease.Close(ctx)
}

// write does what a driver does round a write: one at a time for each name; a
// lost answer is confirmed by reading back; a claim whose caller went away
// before the answer is undone.
func (l *faultyLease) write(ctx context.Context, op Op, name naming.Name, send func() error, confirm func() bool) error {
	decided, err := l.reserve(ctx, op, name)
	if err != nil {
		return err
	}
	f, err := l.b.begin(ctx, op, name)
	if err == nil {
		err = send()
	}
	if errors.Is(err, naming.ErrClosed) && l.isEnded() {
		err = l.b.fail(op, name, naming.ErrLeaseLost)
	}
	if err != nil {
		decided()
		return err
	}
	if f.unclear || f.lost && !confirm() {
		l.end(ctx)
		decided()
		return l.b.fail(op, name, fmt.Errorf("%w: %w", naming.ErrOutcomeUnknown, ErrInjected))
	}
	if late := pass(ctx, f.after); late != nil && op == OpClaim {
		l.b.background(func() {
			defer decided()
			if l.Lease.Release(context.WithoutCancel(ctx), name) != nil {
				l.end(ctx)
			}
		})
		return l.b.fail(op, name, late)
	}
	decided()
	return nil
}

// end gives the lease up, because it is unclear what it holds.
func (l *faultyLease) end(ctx context.Context) {
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	_ = l.Lease.Close(context.WithoutCancel(ctx))
}

func (l *faultyLease) isEnded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ended
}

func (l *faultyLease) reserve(ctx context.Context, op Op, name naming.Name) (decided func(), err error) {
	for {
		l.mu.Lock()
		wait := l.busy[name]
		if wait == nil {
			mine := make(chan struct{})
			l.busy[name] = mine
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				defer l.mu.Unlock()
				delete(l.busy, name)
				close(mine)
			}, nil
		}
		l.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, l.b.fail(op, name, ctx.Err())
		}
	}
}
