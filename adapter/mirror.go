package adapter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
	"github.com/seed-6593ebad/skywarden/runtime"
)

const (
	// silence is how long a watch may be silent before it counts as down. A healthy
	// one speaks at least every 5 s.
	silence = 10 * time.Second
	// idle is how long a name that is watched by itself may go unused before its
	// watch is ended.
	idle = 10 * time.Minute
	// maxOwnFeeds bounds the names that are watched by themselves. Names beyond it
	// are read from the backend at every look-up.
	maxOwnFeeds = 10_000
	// memory is how long the epoch of a name that was given up is remembered. After
	// that the clock, from which epochs are made, is past it.
	memory = 10 * time.Second
)

// A mirror holds in memory what the backend has under the names in use.
//
// Look-ups take a path without locks: table → slot → held entry → feed's state.
// Everything that changes is changed under mu, by the feeds.
type mirror struct {
	a        *Adapter
	maxStale time.Duration
	born     time.Time

	table atomic.Pointer[table]

	mu       sync.Mutex
	listed   map[naming.Name]*slot  // slots of a first listing that is under way
	down     int                    // feeds that are out of touch
	feeds    []*feed                // over families and all names, from the start
	own      map[naming.Name]*feed  // over one name each, since its first look-up
	waiting  map[naming.Name]*alarm // who waits for a change of a name
	stopping bool
	wg       sync.WaitGroup
}

// A table finds slots. Both maps are immutable: base is large and rarely made
// anew, recent is small and copied for every name that is added. So adding one
// name to n costs about √n, not n.
type table struct {
	base, recent map[naming.Name]*slot
}

// A slot is what the mirror knows of one name.
type slot struct {
	allowed error                 // what the allow-list says to looking it up
	held    atomic.Pointer[held]  // nil: nobody holds the name, as far as is known
	claim   atomic.Pointer[claim] // our own claim of the name, if we have one

	// What was known last before nothing was, and for how long that is over: the
	// next claim needs a higher epoch. Guarded by mirror.mu.
	past  *held
	floor uint64 // highest epoch of our own claims
	left  time.Time
}

// held is an entry that a live lease holds.
type held struct {
	entry    naming.Entry
	feed     *feed
	round    uint64 // of the feed's watch that gave it
	resolved atomic.Pointer[resolved]
}

// resolved is what an entry means. It is found at the first look-up, because a
// mirror of 100 000 names must not pay for each at the start.
type resolved struct {
	binding, stale runtime.Binding
	err            error
}

// A feed is one watch over a scope, and what is known of its health.
type feed struct {
	scope  naming.Scope
	state  atomic.Int32 // a feedState
	used   atomic.Bool  // looked up since the last sweep; for feeds over one name
	round  uint64       // counts watches; guarded by mirror.mu
	synced bool         // the watch has told all that is there; of the goroutine that runs it
	cancel context.CancelFunc

	// When the server was last heard from, by the monotonic clock (which is never
	// set back) and by the wall clock (which goes on while the machine sleeps).
	heardMono, heardWall atomic.Int64
}

type feedState = int32

const (
	feedStarting feedState = iota // nothing is known yet
	feedLive                      // what the mirror says is what the backend says
	feedDown                      // out of touch, for less than maxStale
	feedExpired                   // out of touch for longer, or not accepted
	feedRefused                   // forbidden for good: names are watched one by one instead
)

// An alarm wakes those who wait for a change of one name.
type alarm struct {
	ch      chan struct{}
	waiters int
}

func newMirror(a *Adapter, maxStale time.Duration) *mirror {
	m := &mirror{a: a, maxStale: maxStale, born: time.Now(), listed: map[naming.Name]*slot{}, own: map[naming.Name]*feed{}, waiting: map[naming.Name]*alarm{}}
	m.table.Store(&table{})
	return m
}

// slot finds a name's slot. It takes no lock and does not allocate.
func (m *mirror) slot(name naming.Name) *slot {
	t := m.table.Load()
	if s := t.base[name]; s != nil {
		return s
	}
	return t.recent[name]
}

// answer is the short way of a look-up: true when the slot alone can tell.
func (s *slot) answer(a *Adapter) (runtime.Binding, bool) {
	if s.allowed != nil {
		return runtime.Binding{}, false
	}
	// What we hold ourselves, we know best.
	if c := s.claim.Load(); c != nil {
		if h := c.holding.Load(); h != nil {
			return runtime.Binding{Address: c.addr, Epoch: h.epoch}, true
		}
	}
	h := s.held.Load()
	if h == nil {
		return runtime.Binding{}, false
	}
	state := h.feed.state.Load()
	if state != feedLive && state != feedDown {
		return runtime.Binding{}, false
	}
	if !h.feed.used.Load() {
		h.feed.used.Store(true)
	}
	r := h.resolve(a)
	if r.err != nil {
		return runtime.Binding{}, false
	}
	if state == feedDown {
		return r.stale, true
	}
	return r.binding, true
}

// resolve finds out what the entry means, once.
func (h *held) resolve(a *Adapter) *resolved {
	if r := h.resolved.Load(); r != nil {
		return r
	}
	b, err := a.resolve(h.entry)
	r := &resolved{binding: b, stale: b, err: err}
	r.stale.Stale = true
	if h.resolved.CompareAndSwap(nil, r) && err != nil {
		a.tell(Event{Kind: EventMalformed, Name: h.entry.Name, Err: err})
	}
	return r
}

// lookup is the long way: it knows more cases than answer, and takes the lock.
// known is false where only the backend can tell.
func (m *mirror) lookup(name naming.Name) (b runtime.Binding, known bool, err error) {
	f := m.feedFor(name)
	if f == nil {
		return runtime.Binding{}, false, nil
	}
	state := f.state.Load()
	s := m.slot(name)
	var h *held
	if s != nil {
		h = s.held.Load()
	}
	if f.state.Load() != state { // then h may be missing for another reason
		return runtime.Binding{}, false, nil
	}
	switch state {
	case feedStarting, feedRefused:
		return runtime.Binding{}, false, nil
	case feedExpired:
		if h == nil {
			return runtime.Binding{}, false, nil // the backend may know why, or be back
		}
		return runtime.Binding{}, true, fmt.Errorf("%w: the last known owner was confirmed %s ago, and max_stale is %s", naming.ErrUnavailable, m.age(f).Round(time.Second), m.maxStale)
	}
	if h == nil {
		if state == feedDown {
			return runtime.Binding{}, false, nil
		}
		return runtime.Binding{}, true, naming.ErrNotFound
	}
	r := h.resolve(m.a)
	if r.err != nil {
		return runtime.Binding{}, true, r.err
	}
	if state == feedDown {
		return r.stale, true, nil
	}
	return r.binding, true, nil
}

// feedFor gives the feed that covers name, and begins one over the name alone
// where there is none. It is nil when there are too many of those, and the name
// is not our own: those are watched in any case, to be defended.
func (m *mirror) feedFor(name naming.Name) *feed {
	for _, f := range m.feeds { // does not change after New
		if f.scope.Contains(name) && f.state.Load() != feedRefused {
			return f
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.own[name]
	if f == nil {
		s := m.slot(name)
		ours := s != nil && s.claim.Load() != nil
		if m.stopping || len(m.own) >= maxOwnFeeds && !ours {
			return nil
		}
		f = m.newFeed(naming.Only(name))
		m.own[name] = f
	}
	f.used.Store(true)
	return f
}

// watch adds a feed over a scope. It is called before start only.
func (m *mirror) watch(scope naming.Scope) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.feeds = append(m.feeds, m.newFeed(scope))
}

// newFeed starts a watch. mu is held.
func (m *mirror) newFeed(scope naming.Scope) *feed {
	ctx, cancel := context.WithCancel(m.a.ctx)
	f := &feed{scope: scope, cancel: cancel}
	m.hear(f)
	m.wg.Go(func() { m.run(ctx, f) })
	return f
}

// start begins the sweeps that notice silent watches and idle names.
func (m *mirror) start() {
	m.wg.Go(func() {
		every := min(time.Second, max(m.maxStale/10, 10*time.Millisecond))
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		swept := time.Now()
		for {
			select {
			case <-m.a.ctx.Done():
				return
			case now := <-ticker.C:
				m.checkSilence()
				if now.Sub(swept) >= idle {
					swept = now
					m.dropIdle()
				}
			}
		}
	})
}

// wait returns when all feeds have ended. The adapter's context has ended.
func (m *mirror) wait() {
	m.mu.Lock()
	m.stopping = true
	m.mu.Unlock()
	m.wg.Wait()
}

// run keeps one feed's watch going until ctx ends, or it is forbidden to watch
// many names at once: then they are watched one by one, as far as that is allowed.
func (m *mirror) run(ctx context.Context, f *feed) {
	err := m.follow(ctx, f)
	if err == nil {
		m.setState(f, feedStarting, nil) // answers nothing any more
		return
	}
	m.a.log.Warn().Stringer("scope", f.scope).Err(err).Msg("the scope may not be watched: its names are watched one by one")
	for name, s := range m.slots() {
		if f.scope.Contains(name) && s.claim.Load() != nil {
			m.feedFor(name)
		}
	}
}

// follow is run's loop. Its error is that the watch is forbidden for good.
func (m *mirror) follow(ctx context.Context, f *feed) error {
	_, one := f.scope.Name()
	pause, longest := firstPause, longestPause
	for ; ; pause = min(2*pause, longest) {
		for e, err := range m.events(ctx, f) {
			if err != nil {
				if ctx.Err() != nil {
					return nil
				}
				// The backend refuses (or could not even tell who we are): nothing that was
				// known may be used any more.
				forbidden := errors.Is(err, naming.ErrDenied) && !one
				if forbidden {
					m.setState(f, feedRefused, err)
				} else {
					m.setState(f, feedExpired, err)
				}
				m.mu.Lock() // after the state: what is gone now is not absent; see lookup
				f.round++
				m.forgetLocked(f)
				m.mu.Unlock()
				if forbidden {
					return err
				}
				// It is asked again, because credentials and permissions can come back.
				if longest = time.Second; !errors.Is(err, naming.ErrUnavailable) {
					longest = 10 * time.Second
				}
				break
			}
			pause = firstPause
			m.apply(f, e)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause + rand.N(pause)):
		}
	}
}

// events is one watch. The principal comes first, because every slot remembers
// what the allow-list says to it.
func (m *mirror) events(ctx context.Context, f *feed) iter.Seq2[naming.Event, error] {
	if err := m.a.identify(ctx); err != nil {
		return func(yield func(naming.Event, error) bool) { yield(naming.Event{}, err) }
	}
	f.synced = false
	m.mu.Lock()
	f.round++
	m.mu.Unlock()
	return m.a.backend.Watch(ctx, f.scope)
}

// apply takes in one event of a feed's watch.
func (m *mirror) apply(f *feed, e naming.Event) {
	switch e.Kind {
	case naming.Put, naming.Delete:
		m.store(f, e)
		m.a.keeper.observe(e)
	case naming.Synced:
		m.forget(f)
		f.synced = true
	case naming.Down:
		f.synced = false
		m.setState(f, feedDown, e.Err)
		return
	}
	m.hear(f)
	// Also where the watch was silent for too long and speaks again, without having
	// noticed an outage itself. A busy one is never Alive.
	if f.synced && f.state.Load() != feedLive {
		m.setState(f, feedLive, nil)
	}
}

// store puts what an event says into the name's slot and wakes who waits for it.
func (m *mirror) store(f *feed, e naming.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name := e.Entry.Name
	s := m.slotLocked(name, f.round == 1 && f.state.Load() == feedStarting)
	if e.Kind == naming.Put && e.Entry.Held {
		s.held.Store(&held{entry: e.Entry, feed: f, round: f.round})
	} else {
		s.clear()
	}
	m.wakeLocked(name)
}

// clear notes that nobody holds the name. mirror.mu is held.
func (s *slot) clear() {
	if h := s.held.Swap(nil); h != nil {
		s.past, s.left = h, time.Now()
	}
}

// highest is the highest epoch that was seen under name, of late.
func (m *mirror) highest(name naming.Name) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.slot(name)
	if s == nil {
		return 0
	}
	epoch := s.floor
	for _, h := range []*held{s.held.Load(), s.past} {
		if h != nil {
			epoch = max(epoch, epochOf(h.entry))
		}
	}
	return epoch
}

// isLive says whether the mirror follows what happens to name.
func (m *mirror) isLive(name naming.Name) bool {
	f := m.feedFor(name)
	return f != nil && f.state.Load() == feedLive
}

// forget ends a listing: what it gave becomes visible, and what an earlier watch
// of the feed gave and this one did not is dropped. Inside one watch the driver
// tells of every deletion; between two, nobody does.
func (m *mirror) forget(f *feed) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.listed) > 0 {
		m.table.Store(m.merged(m.table.Load(), m.listed))
		m.listed = map[naming.Name]*slot{}
	}
	if f.round > 1 {
		m.forgetLocked(f)
	}
}

func (m *mirror) forgetLocked(f *feed) {
	t := m.table.Load()
	for _, slots := range []map[naming.Name]*slot{t.base, t.recent, m.listed} {
		for name, s := range slots {
			if h := s.held.Load(); h != nil && h.feed == f && h.round != f.round {
				s.clear()
				m.wakeLocked(name)
			}
		}
	}
}

// slotLocked gives the slot of a name, and makes one where there is none. Those
// of a feed's first listing become visible together at its end, so that a large
// listing costs one new table. mu is held.
func (m *mirror) slotLocked(name naming.Name, listing bool) *slot {
	if s := m.slot(name); s != nil {
		return s
	}
	s := m.listed[name]
	if s == nil {
		s = &slot{}
		if m.a.allow != nil {
			s.allowed = m.a.allow.MayLookUp(name, m.a.Principal())
		}
	}
	if listing {
		m.listed[name] = s
		return s
	}
	delete(m.listed, name)
	old := m.table.Load()
	if r := len(old.recent); r > 64 && r*r > 4*len(old.base) {
		old = m.merged(old, nil)
	}
	recent := make(map[naming.Name]*slot, len(old.recent)+1)
	maps.Copy(recent, old.recent)
	recent[name] = s
	m.table.Store(&table{base: old.base, recent: recent})
	return s
}

// merged joins the maps of a table and more into one base, and leaves out slots
// that say nothing.
func (m *mirror) merged(t *table, more map[naming.Name]*slot) *table {
	base := make(map[naming.Name]*slot, len(t.base)+len(t.recent)+len(more))
	for _, slots := range []map[naming.Name]*slot{t.base, t.recent, more} {
		for n, s := range slots {
			if s.held.Load() != nil || s.claim.Load() != nil || time.Since(s.left) < memory {
				base[n] = s
			}
		}
	}
	return &table{base: base}
}

// slots goes through all slots.
func (m *mirror) slots() iter.Seq2[naming.Name, *slot] {
	t := m.table.Load()
	return func(yield func(naming.Name, *slot) bool) {
		for _, slots := range []map[naming.Name]*slot{t.base, t.recent} {
			for name, s := range slots {
				if !yield(name, s) {
					return
				}
			}
		}
	}
}

// attach puts our own claim into its name's slot.
func (m *mirror) attach(c *claim) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.slotLocked(c.name, false).claim.Store(c)
	m.wakeLocked(c.name)
}

// detach takes our own claim out of its name's slot, and with it the entry that
// it held last: the backend's own word of that comes a moment later.
func (m *mirror) detach(c *claim, last *holding) {
	floor := c.highest()
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.slot(c.name)
	if s == nil {
		return
	}
	if s.claim.CompareAndSwap(c, nil) {
		s.floor, s.left = max(s.floor, floor), time.Now()
	}
	if h := s.held.Load(); h != nil && last != nil && bytes.Equal(h.entry.Value, last.value) {
		s.clear()
	}
	m.wakeLocked(c.name)
}

// last is the entry that the mirror has under name, if a live lease holds it.
func (m *mirror) last(name naming.Name) (naming.Entry, bool) {
	if s := m.slot(name); s != nil {
		if h := s.held.Load(); h != nil {
			return h.entry, true
		}
	}
	return naming.Entry{}, false
}

// changed gives a channel that is closed at the next change of name, or of the
// health of the feed over it. stop must be called once, also after a change.
func (m *mirror) changed(name naming.Name) (ch <-chan struct{}, stop func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	al := m.waiting[name]
	if al == nil {
		al = &alarm{ch: make(chan struct{})}
		m.waiting[name] = al
	}
	al.waiters++
	return al.ch, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if al.waiters--; al.waiters == 0 && m.waiting[name] == al {
			delete(m.waiting, name)
		}
	}
}

// poll says when to look again for a name whose changes nothing tells: nil, so
// never, where a feed does. One that is not live tells when it is.
func (m *mirror) poll(name naming.Name) <-chan time.Time {
	if f := m.feedFor(name); f != nil && f.state.Load() != feedExpired {
		return nil
	}
	return time.After(time.Second)
}

func (m *mirror) wakeLocked(name naming.Name) {
	if al := m.waiting[name]; al != nil {
		delete(m.waiting, name)
		close(al.ch)
	}
}

// setState changes what is known of a feed's health, wakes who waits for a name
// in its scope, and tells of the first feed to go down and the last to come back.
func (m *mirror) setState(f *feed, to feedState, why error) {
	m.mu.Lock()
	from := f.state.Swap(to)
	if from == to {
		m.mu.Unlock()
		return
	}
	wasDown, isDown := from == feedDown || from == feedExpired, to == feedDown || to == feedExpired
	before := m.down
	switch {
	case isDown && !wasDown:
		m.down++
	case wasDown && !isDown:
		m.down--
	}
	after := m.down
	for name := range m.waiting {
		if f.scope.Contains(name) {
			m.wakeLocked(name)
		}
	}
	m.mu.Unlock()
	switch {
	case before == 0 && after > 0:
		m.a.tell(Event{Kind: EventBackendDown, Err: why})
	case before > 0 && after == 0 && to == feedLive:
		m.a.tell(Event{Kind: EventBackendUp})
	}
}

// hear notes that the feed's server was heard from.
func (m *mirror) hear(f *feed) {
	now := time.Now()
	f.heardMono.Store(int64(now.Sub(m.born)))
	f.heardWall.Store(now.UnixNano())
}

// age is how long ago the feed's server was heard from, by the clock that says
// more.
func (m *mirror) age(f *feed) time.Duration {
	now := time.Now()
	return max(now.Sub(m.born)-time.Duration(f.heardMono.Load()), time.Duration(now.UnixNano()-f.heardWall.Load()))
}

// checkSilence finds watches that hang, and those that were away for too long.
func (m *mirror) checkSilence() {
	m.mu.Lock()
	feeds := slices.AppendSeq(slices.Clone(m.feeds), maps.Values(m.own))
	m.mu.Unlock()
	for _, f := range feeds {
		age := m.age(f)
		switch state := f.state.Load(); {
		case state == feedLive && age > silence:
			m.setState(f, feedDown, fmt.Errorf("%w: the watch has been silent for %s", naming.ErrUnavailable, age.Round(time.Second)))
		case state == feedDown && age > m.maxStale:
			m.setState(f, feedExpired, fmt.Errorf("%w: for %s", naming.ErrUnavailable, age.Round(time.Second)))
		}
	}
}

// dropIdle ends the watches over single names that were not looked up since the
// last call.
func (m *mirror) dropIdle() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, f := range m.own {
		if f.used.Swap(false) || m.waiting[name] != nil {
			continue
		}
		s := m.slot(name)
		if s != nil && s.claim.Load() != nil {
			continue
		}
		if s != nil {
			s.clear()
		}
		delete(m.own, name)
		f.cancel()
	}
}
