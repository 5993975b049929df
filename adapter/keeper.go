package adapter

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/seed-6593ebad/skywarden/adapter/record"
	"github.com/seed-6593ebad/skywarden/naming"
	"github.com/seed-6593ebad/skywarden/runtime"
)

const (
	// repairs bounds how many names are claimed again at the same time.
	repairs = 64
	// The pauses between two tries to claim a name again, before jitter. The longest
	// keeps L2: registered again within 5 s after the backend is back.
	firstPause, longestPause = 100 * time.Millisecond, 2 * time.Second
	// standbyPoll is how often a standby asks again without having been woken.
	standbyPoll = 5 * time.Second
	// undo bounds calls that clean up after their caller has gone.
	undo = 3 * time.Second
	// farewell bounds the ending of a lease, so that Close keeps L5.
	farewell = 2500 * time.Millisecond
)

// A keeper holds this node's names: it opens leases, claims names under them,
// fences owners in time and claims again what was lost.
type keeper struct {
	a        *Adapter
	ttl      time.Duration
	perLease int // 0: no limit

	ctx    context.Context // ends when close has released everything
	cancel context.CancelFunc
	wg     sync.WaitGroup
	open   singleflight.Group // one lease is opened for all who wait for one
	busy   chan struct{}      // a place per repair under way

	mu     sync.Mutex
	claims map[naming.Name]*claim
	leases map[*lease]bool
	closed bool
}

// A lease is one lease of the backend and the names under it.
type lease struct {
	naming.Lease
	margin time.Duration
	opened time.Time
	fence  atomic.Pointer[leaseFence]
	// Guarded by keeper.mu:
	seats  int // names under it, and those being claimed
	claims map[*claim]*holding
	lost   bool // a claim was told so: no new names
	dead   bool // it is being ended
}

// A leaseFence is a fence and the deadline that it was made for.
type leaseFence struct {
	deadline time.Time
	fence
}

// alive says whether names under the lease may be answered to at this moment. It
// allocates only when the deadline has moved since the last call.
func (l *lease) alive() bool { return !l.ended() && !l.expired() }

// ended says whether the lease is known to be gone.
func (l *lease) ended() bool {
	select {
	case <-l.Done():
		return true
	default:
		return false
	}
}

// expired says whether the lease was not renewed in time.
func (l *lease) expired() bool {
	d, f := l.Deadline(), l.fence.Load()
	if f == nil || !f.deadline.Equal(d) {
		f = &leaseFence{d, newFence(d.Add(-l.margin))}
		l.fence.Store(f)
	}
	return f.passed()
}

// A claim is a name that a service of this node holds, or wants back.
type claim struct {
	k        *keeper
	name     naming.Name
	addr     naming.Address
	instance [16]byte // random: by it we know our own entries

	holding atomic.Pointer[holding] // nil: not held at the moment

	ctx    context.Context // ends with Release: whatever is under way for the claim stops
	cancel context.CancelFunc
	gone   chan struct{} // closed when the keeper has done with it

	mu        sync.Mutex
	notify    func(runtime.NameEvent)
	suspended bool   // the owner was told so, and nothing since
	epoch     uint64 // highest used or met
	held      uint64 // epoch under which it was held last; 0: never
	released  bool   // or lost: it is over
	// What is under way for it, and may still write. See settle.
	repairing, releasing bool
}

// A holding is a claim that took effect.
type holding struct {
	lease    *lease
	epoch    uint64
	value    []byte
	revision naming.Revision
	since    time.Time
	seen     atomic.Bool // the mirror has shown it to us
}

func newKeeper(a *Adapter, ttl time.Duration, perLease int) *keeper {
	k := &keeper{
		a: a, ttl: ttl, perLease: perLease, busy: make(chan struct{}, repairs),
		claims: map[naming.Name]*claim{}, leases: map[*lease]bool{},
	}
	k.ctx, k.cancel = context.WithCancel(a.ctx)
	return k
}

// Name implements runtime.Claim.
func (c *claim) Name() naming.Name { return c.name }

// Serving implements runtime.Claim.
func (c *claim) Serving() (epoch uint64, ok bool) {
	h := c.holding.Load()
	if h == nil || !h.lease.alive() {
		return 0, false
	}
	return h.epoch, true
}

// register claims name for the first time.
func (k *keeper) register(ctx context.Context, name naming.Name, addr naming.Address, opts runtime.RegisterOptions) (*claim, error) {
	c, err := k.admit(ctx, name, addr, opts)
	if err != nil {
		return nil, err
	}
	// Either side may end it: the caller, or close.
	either, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	for {
		changed, stop := k.a.mirror.changed(name)
		if err = k.claim(either, c); err == nil {
			stop()
			return c, nil
		}
		if opts.Standby && standbyWaits(err) {
			k.a.mirror.feedFor(name) // what wakes us; make sure that there is one
			select {
			case <-changed:
			case <-time.After(standbyPoll/2 + mathrand.N(standbyPoll/2)):
			case <-either.Done():
			}
		}
		stop()
		switch {
		case ctx.Err() != nil:
			err = fmt.Errorf("%w (%w)", ctx.Err(), err)
		case c.ctx.Err() != nil:
			err = naming.ErrClosed
		case opts.Standby && standbyWaits(err):
			continue
		}
		k.forget(c)
		return nil, err
	}
}

// standbyWaits says whether a standby goes on after err: the name may become
// free, the backend may come back.
func standbyWaits(err error) bool {
	for _, passing := range []error{naming.ErrTaken, naming.ErrUnavailable, naming.ErrOutcomeUnknown, naming.ErrLeaseLost} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
}

// admit makes the claim of a name known to the keeper. A name that this node is
// just giving up is waited for.
func (k *keeper) admit(ctx context.Context, name naming.Name, addr naming.Address, opts runtime.RegisterOptions) (*claim, error) {
	for {
		k.mu.Lock()
		if k.closed {
			k.mu.Unlock()
			return nil, naming.ErrClosed
		}
		other := k.claims[name]
		if other == nil {
			c := &claim{k: k, name: name, addr: addr, notify: opts.Notify, gone: make(chan struct{})}
			_, _ = rand.Read(c.instance[:])             // never fails
			c.ctx, c.cancel = context.WithCancel(k.ctx) //nolint:fatcontext // the loop makes at most one
			k.claims[name] = c
			k.mu.Unlock()
			return c, nil
		}
		k.mu.Unlock()
		other.mu.Lock()
		leaving := other.released
		other.mu.Unlock()
		if !leaving && !opts.Standby {
			return nil, &TakenError{Holder: other.addr}
		}
		select {
		case <-other.gone:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-k.ctx.Done():
			return nil, naming.ErrClosed
		}
	}
}

// settle notes that a work for c has ended. Whichever ends last after c's end
// forgets it: until then a new claim of the name waits in admit, because what the
// work still writes would hit it.
func (k *keeper) settle(c *claim, work *bool) {
	c.mu.Lock()
	*work = false
	over := c.released && !c.repairing && !c.releasing
	c.mu.Unlock()
	if over {
		k.forget(c)
	}
}

// forget takes a claim out of the keeper for good.
func (k *keeper) forget(c *claim) {
	c.cancel()
	k.a.mirror.detach(c, nil)
	k.mu.Lock()
	if k.claims[c.name] == c {
		delete(k.claims, c.name)
		close(c.gone)
	}
	k.mu.Unlock()
}

// claim tries once to hold c's name, under whatever lease has room. A foreign
// holder is a *TakenError.
func (k *keeper) claim(ctx context.Context, c *claim) error {
	var opened time.Time
	for try := 0; ; try++ {
		l, err := k.seat(ctx, opened)
		if err != nil {
			return err
		}
		err = k.claimUnder(ctx, c, l, nil)
		if err == nil {
			return nil
		}
		// The lease may have died in between, or have been closed by its minder: a
		// fresh one settles it. Others of its age may have died with it.
		died := errors.Is(err, naming.ErrLeaseLost) || errors.Is(err, naming.ErrClosed) && l.ended()
		k.unseat(l, died)
		if !died || c.ctx.Err() != nil || try == 2 {
			return err
		}
		opened = time.Now()
	}
}

// claimUnder tries once to hold c's name under l, where it has a seat already.
// defended is the holding that was overwritten, if this is a defence.
func (k *keeper) claimUnder(ctx context.Context, c *claim, l *lease, defended *holding) error {
	var over naming.Revision
	seen := k.a.mirror.highest(c.name)
	for try := 0; ; try++ {
		h, err := c.next(l, seen)
		if err != nil {
			return err
		}
		h.revision, err = l.Claim(ctx, c.name, h.value, over)
		if err == nil {
			if !k.install(c, h) {
				return naming.ErrLeaseLost
			}
			return nil
		}
		var taken *naming.TakenError
		if !errors.As(err, &taken) {
			return err
		}
		e := taken.Entry
		rec, derr := record.Decode(e.Value)
		c.exceed(rec.Epoch)
		switch {
		case try == 5: // it changes under our hands
			return err
		case !e.Held: // gone, or held by nobody: free
			over = 0
			continue
		case derr == nil && (rec.Instance == c.instance || k.leftover(rec.Address) && c.precedes(rec.Epoch)):
		case defended != nil && (derr != nil || rec.Epoch <= defended.epoch):
		case derr == nil:
			return &TakenError{Holder: rec.Address, Epoch: rec.Epoch}
		default:
			return &TakenError{}
		}
		// Ours to replace: exactly this entry, under an epoch above its own.
		over = e.Revision
	}
}

// leftover says whether an entry with this address was left behind by an earlier
// process in our place: we have bound its endpoint, so nobody else can serve
// there. A loopback endpoint says nothing about other machines; then the node
// must be the same as well.
func (k *keeper) leftover(addr naming.Address) bool {
	return addr.Endpoint() == k.a.endpoint && (addr.Node() == k.a.node || !addr.Endpoint().Addr().IsLoopback())
}

// precedes says whether a leftover of this epoch was there before c. Once c was
// held, a higher epoch is that of a process which has taken our place since.
func (c *claim) precedes(epoch uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held == 0 || epoch <= c.held
}

// next makes the record of c's next claim, above every epoch that was seen.
func (c *claim) next(l *lease, seen uint64) (*holding, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch = max(uint64(time.Now().UnixMilli()), c.epoch+1, seen+1)
	r := record.Record{Address: c.addr, Epoch: c.epoch, Instance: c.instance}
	value, err := record.Encode(r)
	return &holding{lease: l, epoch: r.Epoch, value: value, since: time.Now()}, err
}

// install makes a claim that took effect the current one, and tells an owner
// that was suspended. It is false when the lease died or the claim was released
// meanwhile; then the entry was deleted, or goes with the lease.
func (k *keeper) install(c *claim, h *holding) bool {
	c.mu.Lock()
	k.mu.Lock()
	ok := !h.lease.dead && !c.released
	if ok {
		h.lease.claims[c] = h
		c.holding.Store(h)
		c.held = h.epoch
	}
	k.mu.Unlock()
	if ok && c.suspended {
		c.suspended = false
		c.tellOwnerLocked(runtime.NameEvent{Name: c.name, Kind: runtime.NameResumed, Epoch: h.epoch})
		k.a.tell(Event{Kind: EventResumed, Name: c.name, Address: c.addr, Epoch: h.epoch})
	}
	c.mu.Unlock()
	if !ok {
		k.insist(c, h)
		return false
	}
	k.a.mirror.attach(c)
	k.a.mirror.feedFor(c.name) // what tells us when someone overwrites it
	// What overwrote the entry before it was installed was not recognised as an
	// attack by observe: look again.
	if e, ok := k.a.mirror.last(c.name); ok && e.Revision > h.revision {
		k.observe(naming.Event{Kind: naming.Put, Entry: e})
	}
	return true
}

// seat finds room for one more name under a living lease that was not opened
// before the given time, or opens a new one.
func (k *keeper) seat(ctx context.Context, opened time.Time) (*lease, error) {
	for {
		k.mu.Lock()
		for l := range k.leases {
			if !l.lost && !l.opened.Before(opened) && l.alive() && (k.perLease == 0 || l.seats < k.perLease) {
				l.seats++
				k.mu.Unlock()
				return l, nil
			}
		}
		k.mu.Unlock()
		opened := k.open.DoChan("", func() (any, error) { return nil, k.openLease() })
		select {
		case r := <-opened:
			if r.Err != nil {
				return nil, r.Err
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// openLease opens a lease and begins to mind it.
func (k *keeper) openLease() error {
	k.mu.Lock()
	if k.closed {
		k.mu.Unlock()
		return naming.ErrClosed
	}
	k.wg.Add(1)
	k.mu.Unlock()
	defer k.wg.Done()
	inner, err := k.a.backend.Lease(k.ctx, k.ttl)
	if err != nil {
		if k.ctx.Err() != nil {
			return naming.ErrClosed
		}
		return err
	}
	l := &lease{Lease: inner, margin: margin(k.ttl), opened: time.Now(), claims: map[*claim]*holding{}}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		k.wg.Go(func() { k.endLease(l) }) // close is waiting for this opening
		return naming.ErrClosed
	}
	k.leases[l] = true
	k.wg.Go(func() { k.mind(l) })
	return nil
}

// unseat gives a seat back. lost says that the lease was found to be gone.
func (k *keeper) unseat(l *lease, lost bool) {
	k.mu.Lock()
	l.seats--
	l.lost = l.lost || lost
	k.mu.Unlock()
	k.endIfEmpty(l)
}

// endIfEmpty ends a lease without names: on the server an empty lease is a thing
// that others can get at.
func (k *keeper) endIfEmpty(l *lease) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l.seats == 0 && !l.dead {
		l.dead = true
		delete(k.leases, l)
		k.wg.Go(func() { k.endLease(l) })
	}
}

// endLease ends a lease, as far as the backend can be reached. If it cannot, the
// lease ends by itself: its driver renews it no more.
func (k *keeper) endLease(l *lease) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(k.ctx), time.Second)
	defer cancel()
	_ = l.Close(ctx)
}

// mind watches over a lease until it is gone or has passed its fence, and then
// has the names under it claimed again.
func (k *keeper) mind(l *lease) {
	var why error
	for why == nil {
		// Not longer than a second at a time, because timers stand still while the
		// machine sleeps and the fence does not.
		wait := time.NewTimer(min(time.Second, max(time.Millisecond, time.Until(l.Deadline().Add(-l.margin)))))
		select {
		case <-l.Done():
			why = fmt.Errorf("%w: the backend has ended it", naming.ErrLeaseLost)
		case <-wait.C:
			k.endIfEmpty(l) // whoever had it opened may have gone
			k.checkUnseen(l)
		case <-k.ctx.Done():
			wait.Stop()
			return
		}
		wait.Stop()
		if l.expired() {
			why = fmt.Errorf("%w: not renewed before its deadline", naming.ErrLeaseLost)
		}
	}
	k.mu.Lock()
	closing := l.dead // by unseat or close: nothing is lost
	l.dead = true
	delete(k.leases, l)
	lost := l.claims
	l.claims = nil
	k.mu.Unlock()
	if closing && len(lost) == 0 {
		return
	}
	for c, h := range lost {
		c.suspend(h, why)
	}
	k.endLease(l) // before the new one: the old entries are in the way otherwise
	for c := range lost {
		k.repair(c, why, k.reclaim)
	}
}

// suspend stops the service from answering as its name.
func (c *claim) suspend(h *holding, why error) {
	// Until the owner and the observers know: install takes it before it can tell
	// the next thing, which may be soon.
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.holding.CompareAndSwap(h, nil) {
		c.suspended = true
		c.tellOwnerLocked(runtime.NameEvent{Name: c.name, Kind: runtime.NameSuspended, Err: why})
		c.k.a.tell(Event{Kind: EventSuspended, Name: c.name, Address: c.addr, Epoch: h.epoch, Err: why})
	}
}

func (c *claim) tellOwnerLocked(e runtime.NameEvent) {
	if c.notify != nil && !c.released {
		c.notify(e)
	}
}

// repair runs work for c, unless some is under way already or c was released.
func (k *keeper) repair(c *claim, why error, work func(*claim, error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.repairing || c.released {
		return
	}
	c.repairing = true
	k.wg.Go(func() {
		work(c, why)
		k.settle(c, &c.repairing)
		// The lease may have died, or the entry been overwritten, while work ended.
		k.recheck(c)
	})
}

// recheck finds what went wrong with a claim while its repair ended.
func (k *keeper) recheck(c *claim) {
	h := c.holding.Load()
	switch {
	case c.ctx.Err() != nil:
	case h == nil:
		k.repair(c, naming.ErrLeaseLost, k.reclaim)
	default:
		if e, ok := k.a.mirror.last(c.name); ok && e.Revision > h.revision {
			k.observe(naming.Event{Kind: naming.Put, Entry: e})
		}
	}
}

// reclaim claims a suspended name again, until it is held, belongs to someone
// else, or is released.
func (k *keeper) reclaim(c *claim, _ error) {
	if c.holding.Load() != nil {
		return // an earlier repair was faster than the news that led to this one
	}
	for pause, said := firstPause, ""; ; pause = min(2*pause, longestPause) {
		select {
		case k.busy <- struct{}{}:
		case <-c.ctx.Done():
			return
		}
		err := k.claim(c.ctx, c)
		<-k.busy
		var taken *TakenError
		switch {
		case c.ctx.Err() != nil:
			return
		case err == nil:
			return // install has told
		case errors.As(err, &taken):
			k.lose(c, taken)
			return
		}
		if code := naming.Code(err); code != said {
			said = code
			k.a.log.Warn().Stringer("name", c.name).Str("result", code).AnErr("reason", err).Msg("cannot claim the name again yet")
		}
		select {
		case <-time.After(pause/2 + mathrand.N(pause)):
		case <-c.ctx.Done():
			return
		}
	}
}

// exceed has the next claim take a higher epoch than this one.
func (c *claim) exceed(epoch uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch = max(c.epoch, epoch)
}

// highest is the highest epoch that c has used or met.
func (c *claim) highest() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.epoch
}

// lose ends a claim whose name belongs to someone else, from within a repair.
func (k *keeper) lose(c *claim, taken *TakenError) {
	c.mu.Lock()
	mine := !c.released
	c.tellOwnerLocked(runtime.NameEvent{Name: c.name, Kind: runtime.NameLost, Err: taken})
	c.released = true
	c.mu.Unlock()
	if mine {
		k.a.tell(Event{Kind: EventLost, Name: c.name, Address: c.addr, Holder: taken.Holder, Epoch: taken.Epoch, Err: taken})
	}
}

// observe is told by the mirror what the backend has under a name. Where that is
// not what we put there, while our lease lives, it is an attack or an accident:
// the name is defended (promise S8).
func (k *keeper) observe(e naming.Event) {
	k.mu.Lock()
	c := k.claims[e.Entry.Name]
	k.mu.Unlock()
	if c == nil {
		return
	}
	h := c.holding.Load()
	if h == nil {
		return
	}
	// The same bytes at another revision were put there by someone else.
	if e.Kind == naming.Put && e.Entry.Held && e.Entry.Revision == h.revision && bytes.Equal(e.Entry.Value, h.value) {
		h.seen.Store(true)
		return
	}
	// Until the mirror has shown our entry, it shows what was there before it.
	if !h.seen.Load() && e.Entry.Revision <= h.revision {
		return
	}
	k.repair(c, nil, k.defend)
}

// checkUnseen looks after claims that the mirror does not show although it should
// by now: what is deleted between a claim and the mirror's look is never told.
func (k *keeper) checkUnseen(l *lease) {
	k.mu.Lock()
	var unseen []*claim
	for c, h := range l.claims {
		if !h.seen.Load() && time.Since(h.since) > time.Second {
			unseen = append(unseen, c)
		}
	}
	k.mu.Unlock()
	for _, c := range unseen {
		if k.a.mirror.isLive(c.name) {
			k.repair(c, nil, k.verify)
		}
	}
}

// verify defends a claim whose entry is not there.
func (k *keeper) verify(c *claim, why error) {
	select {
	case k.busy <- struct{}{}:
	case <-c.ctx.Done():
		return
	}
	_, err := k.a.backend.Get(c.ctx, c.name)
	<-k.busy
	if err == nil || errors.Is(err, naming.ErrNotFound) {
		k.defend(c, why) // which looks twice
	}
}

// defend puts back an entry that was overwritten or deleted under a living lease.
func (k *keeper) defend(c *claim, _ error) {
	h := c.holding.Load()
	if h == nil || !h.lease.alive() {
		return // the lease is gone with it: the minder's business
	}
	ctx, cancel := context.WithTimeout(c.ctx, undo)
	defer cancel()
	if e, err := k.a.backend.Get(ctx, c.name); err == nil && e.Held && e.Revision == h.revision && bytes.Equal(e.Value, h.value) {
		h.seen.Store(true) // what alarmed us was there before
		return
	}
	for pause, alarmed := firstPause, false; ; pause = min(2*pause, longestPause) {
		err := k.claimUnder(c.ctx, c, h.lease, h)
		if c.ctx.Err() != nil || errors.Is(err, naming.ErrLeaseLost) || h.lease.ended() {
			return // released, or the entry went with its lease: the minder's business
		}
		if !alarmed { // not before the lease has shown that it lives
			alarmed = true
			k.a.tell(Event{Kind: EventOverwritten, Name: c.name, Address: c.addr, Epoch: h.epoch, Err: fmt.Errorf("%w: entry overwritten or deleted under a living lease", naming.ErrFenced)})
		}
		var taken *TakenError
		switch {
		case err == nil:
			k.a.tell(Event{Kind: EventRestored, Name: c.name, Address: c.addr, Epoch: c.highest()})
			return
		case errors.As(err, &taken):
			// A higher epoch: whoever wrote it is entitled to the name as far as this
			// process can tell.
			if c.holding.CompareAndSwap(h, nil) { // else it was released, or its lease died
				k.drop(c, h)
			}
			k.lose(c, taken)
			return
		case c.holding.Load() != h:
			return
		}
		select {
		case <-time.After(pause/2 + mathrand.N(pause)):
		case <-c.ctx.Done():
			return
		}
	}
}

// drop takes c's name off h's lease.
func (k *keeper) drop(c *claim, h *holding) {
	k.mu.Lock()
	delete(h.lease.claims, c)
	k.mu.Unlock()
	k.unseat(h.lease, false)
}

// Release implements runtime.Claim.
func (c *claim) Release(ctx context.Context) error {
	c.mu.Lock()
	if c.released {
		c.mu.Unlock()
		return nil
	}
	c.released, c.releasing = true, true
	h := c.holding.Swap(nil)
	c.mu.Unlock()
	c.cancel() // ends a repair that is under way; install refuses what it still brings
	k := c.k
	var err error
	if h != nil {
		if err = h.lease.Release(ctx, c.name); errors.Is(err, naming.ErrLeaseLost) {
			err = nil // the entry goes with it
		}
	}
	k.a.tell(Event{Kind: EventRelease, Name: c.name, Address: c.addr, Err: err})
	if err == nil {
		// The mirror need not wait for the backend to know that it is over.
		k.a.mirror.detach(c, h)
		if h != nil {
			k.drop(c, h)
		}
		k.settle(c, &c.releasing)
		return nil
	}
	// The entry lives as long as its lease is renewed for other names: try on.
	k.mu.Lock()
	closed := k.closed
	if !closed {
		k.wg.Go(func() {
			k.insist(c, h)
			k.drop(c, h)
			k.settle(c, &c.releasing)
		})
	}
	k.mu.Unlock()
	if closed {
		k.settle(c, &c.releasing) // the lease is being ended anyhow
	}
	return &naming.Error{Op: "release", Name: c.name, Err: err}
}

// insist deletes an entry that nobody wants any more, until that succeeds or its
// lease is gone and the entry with it.
func (k *keeper) insist(c *claim, h *holding) {
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		if h.lease.ended() || k.ctx.Err() != nil {
			return
		}
		ctx, cancel := context.WithTimeout(k.ctx, undo)
		err := h.lease.Release(ctx, c.name)
		cancel()
		if err == nil || errors.Is(err, naming.ErrLeaseLost) {
			return
		}
		select {
		case <-time.After(pause/2 + mathrand.N(pause)):
		case <-h.lease.Done():
		case <-k.ctx.Done():
		}
	}
}

// close gives up every name by ending the leases, and waits until everything has
// stopped, or ctx ends.
func (k *keeper) close(ctx context.Context) error {
	k.mu.Lock()
	k.closed = true
	claims := make([]*claim, 0, len(k.claims))
	for _, c := range k.claims {
		claims = append(claims, c)
	}
	leases := make([]*lease, 0, len(k.leases))
	for l := range k.leases {
		l.dead = true
		l.claims = nil
		leases = append(leases, l)
	}
	k.mu.Unlock()

	// Nothing is served from here on.
	for _, c := range claims {
		c.mu.Lock()
		again := c.released
		c.released = true
		h := c.holding.Swap(nil)
		c.mu.Unlock()
		c.cancel()
		if h != nil && !again {
			k.a.tell(Event{Kind: EventRelease, Name: c.name, Address: c.addr, Epoch: h.epoch})
		}
	}
	ctx, cancel := context.WithTimeout(ctx, farewell)
	defer cancel()
	errs := make([]error, len(leases))
	var wg sync.WaitGroup
	for i, l := range leases {
		wg.Go(func() { errs[i] = l.Close(ctx) })
	}
	wg.Wait()
	k.cancel()
	k.wg.Wait()
	for _, c := range claims {
		k.forget(c)
	}
	return errors.Join(errs...)
}

// epochOf is the epoch that an entry states, 0 where it cannot be read.
func epochOf(e naming.Entry) uint64 {
	r, err := record.Decode(e.Value)
	if err != nil {
		return 0
	}
	return r.Epoch
}
