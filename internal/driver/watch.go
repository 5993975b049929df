package driver

import (
	"context"
	"errors"
	"hash/maphash"
	"iter"
	"math/rand/v2"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
)

// RetryPause is between two tries of what failed.
const RetryPause = 50 * time.Millisecond

// AliveEvery is how often a reader hears of a quiet watch at least, half of what
// the contract asks for.
const AliveEvery = 2500 * time.Millisecond

// Watch makes a watch over scope from a function that follows it: that lists,
// tells the difference to t, and then the changes until something breaks, and
// gives the reason. nil means that it should follow again, without an outage.
// After ErrDenied and ErrUnauthenticated there is no use in that. follow gets a
// context that ends with the watch, and returns when t.Stopped.
func (l *Life) Watch(ctx context.Context, scope naming.Scope, follow func(ctx context.Context, t *Teller) error) iter.Seq2[naming.Event, error] {
	return func(yield func(naming.Event, error) bool) {
		t := &Teller{yield: yield, told: map[naming.Name]state{}}
		err := ErrZeroScope
		if !scope.IsZero() {
			err = l.watch(ctx, t, scope, follow)
		}
		if !t.stopped {
			only, _ := scope.Name()
			yield(naming.Event{}, l.Fail("watch", only, err))
		}
	}
}

// watch follows the scope until there is no more use in it, and gives the
// reason; nil if the reader has stopped.
func (l *Life) watch(ctx context.Context, t *Teller, scope naming.Scope, follow func(context.Context, *Teller) error) error {
	for {
		err := l.followOnce(ctx, t, follow)
		switch {
		case t.stopped:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case l.Closed():
			return naming.ErrClosed
		case errors.Is(err, naming.ErrDenied), errors.Is(err, naming.ErrUnauthenticated):
			return err
		case err == nil:
			continue
		}
		t.synced = false
		if !t.down {
			l.log.Warn().Err(err).Stringer("scope", scope).Msg("watch lost its server")
			t.down = true
			if !t.tell(naming.Event{Kind: naming.Down, Err: l.Fail("watch", naming.Name{}, err)}) {
				return nil
			}
		}
		within, cancel := l.Bound(ctx, time.Minute)
		_ = Pause(within, RetryPause+rand.N(2*RetryPause)) //nolint:gosec // spreads load: many watches lose their server at once
		cancel()
	}
}

func (l *Life) followOnce(ctx context.Context, t *Teller, follow func(context.Context, *Teller) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	return follow(ctx, t)
}

// A Teller tells the reader of one watch what is new to it. Its methods say
// whether the reader wants more. It belongs to the goroutine of the range.
type Teller struct {
	yield   func(naming.Event, error) bool
	stopped bool // by the reader

	told   map[naming.Name]state // what the reader believes to be there
	synced bool                  // the reader was told so, and of no Down since
	down   bool                  // the reader was told so, and of no Synced since
	last   time.Time             // of the last event
	count  int                   // of all events
}

// A state is what makes one state of an entry differ from another. The revision
// is not enough: after the restore of a snapshot revisions recur.
type state struct {
	revision naming.Revision
	held     bool
	value    uint64
}

var seed = maphash.MakeSeed()

// Stopped says whether the reader has gone.
func (t *Teller) Stopped() bool { return t.stopped }

// Synced says whether the reader was told Synced, and of no Down since.
func (t *Teller) Synced() bool { return t.synced }

// Told counts the events that the reader was told.
func (t *Teller) Told() int { return t.count }

// Put tells of an entry, unless the reader knows it.
func (t *Teller) Put(e naming.Entry) bool {
	now := state{e.Revision, e.Held, maphash.Bytes(seed, e.Value)}
	if told, known := t.told[e.Name]; known && told == now {
		return true
	}
	t.told[e.Name] = now
	return t.tell(naming.Event{Kind: naming.Put, Entry: e})
}

// Delete tells that nothing is under name any more, unless the reader knows it.
// revision is that of the deletion; 0 where the server does not tell it.
func (t *Teller) Delete(name naming.Name, revision naming.Revision) bool {
	told, known := t.told[name]
	if !known {
		return true
	}
	delete(t.told, name)
	return t.tell(naming.Event{Kind: naming.Delete, Entry: naming.Entry{Name: name, Revision: max(revision, told.revision)}})
}

// Listing tells how all that is there differs from what was told, then Synced if
// the reader waits for it.
func (t *Teller) Listing(entries []naming.Entry) bool {
	there := make(map[naming.Name]bool, len(entries))
	for _, e := range entries {
		there[e.Name] = true
		if !t.Put(e) {
			return false
		}
	}
	for name := range t.told {
		if !there[name] && !t.Delete(name, 0) {
			return false
		}
	}
	if t.synced {
		return true
	}
	t.synced, t.down = true, false
	return t.tell(naming.Event{Kind: naming.Synced})
}

// Alive tells that the server was heard from at heard, if the reader has heard
// nothing for AliveEvery.
func (t *Teller) Alive(heard time.Time) bool {
	if time.Since(t.last) < AliveEvery || !heard.After(t.last) {
		return true
	}
	return t.tell(naming.Event{Kind: naming.Alive})
}

func (t *Teller) tell(event naming.Event) bool {
	t.last = time.Now()
	t.count++
	t.stopped = !t.yield(event, nil)
	return !t.stopped
}
