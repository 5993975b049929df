package runtime

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
)

// A RegisterOption changes one registration.
type RegisterOption func(*RegisterOptions)

// Standby makes Register wait until the name is free, instead of failing with
// naming.ErrTaken.
func Standby() RegisterOption {
	return func(o *RegisterOptions) { o.Standby = true }
}

// Register gives name to the service at ref, which must be one of this node. A
// name that begins with a dot is local: it stays on the node and is found only
// there. Every other name is claimed cluster-wide, and kept through outages,
// until Release or the end of the service; see OnName for what can become of it
// meanwhile. A service may have many names; a name belongs to one service.
//
// ctx bounds Register alone, not how long the name is kept. The errors of a
// cluster-wide name are those of Registry.Register; besides:
//
//   - naming.ErrNameInvalid: see naming.ParseName and naming.ParseLocalName.
//   - naming.ErrTaken: also for a local name, and where the service has the name
//     already.
//   - naming.ErrAddressNotAllowed: ref is a service of another node.
//   - ErrServiceGone: there is no such service any more.
func (n *Node) Register(ctx context.Context, name string, ref Ref, opts ...RegisterOption) error {
	var o RegisterOptions
	for _, opt := range opts {
		opt(&o)
	}
	s, err := n.own(ref)
	if err != nil {
		return n.refuse(name, ref.addr, fmt.Errorf("register %q: %w", name, err))
	}
	if strings.HasPrefix(name, ".") {
		local, err := naming.ParseLocalName(name)
		if err != nil {
			return err
		}
		return n.locals.register(ctx, local, s, o.Standby)
	}
	global, err := naming.ParseName(name)
	if err != nil {
		return n.refuse(name, s.address(), err)
	}
	return n.claim(ctx, global, s, o)
}

// refuse has the registry report a registration that does not get as far as it.
func (n *Node) refuse(name string, addr naming.Address, err error) error {
	if !strings.HasPrefix(name, ".") {
		n.registry.Refused(name, addr, err)
	}
	return err
}

// Release gives up a name that a service of this node has. naming.ErrNotFound
// says that none has it. Nothing is served under the name from this moment on,
// whatever Release returns: another error says that the name becomes free only
// when its lease ends.
func (n *Node) Release(ctx context.Context, name string) error {
	if strings.HasPrefix(name, ".") {
		local, err := naming.ParseLocalName(name)
		if err != nil {
			return err
		}
		return n.locals.release(local)
	}
	global, err := naming.ParseName(name)
	if err != nil {
		return err
	}
	h := n.names.take(global)
	if h == nil {
		return fmt.Errorf("release %s: %w on this node", global, naming.ErrNotFound)
	}
	return h.release(ctx)
}

// Lookup gives a Ref that is bound to name. It does not wait for the name to
// appear. Errors: naming.ErrNotFound, naming.ErrNameInvalid,
// naming.ErrNameNotAllowed, naming.ErrUnavailable, naming.ErrClosed, the
// context's.
func (n *Node) Lookup(ctx context.Context, name string) (Ref, error) {
	t, err := n.parse(name)
	if err != nil {
		return Ref{}, err
	}
	var b Binding
	if t.global.IsZero() {
		_, err = n.locals.lookup(t.local)
	} else {
		b, err = n.registry.Lookup(ctx, t.global)
	}
	return n.bind(t, b, err)
}

// Query is Lookup that waits until the name is there, or ctx ends.
func (n *Node) Query(ctx context.Context, name string) (Ref, error) {
	t, err := n.parse(name)
	if err != nil {
		return Ref{}, err
	}
	var b Binding
	if t.global.IsZero() {
		err = n.locals.query(ctx, t.local)
	} else {
		b, err = n.registry.Query(ctx, t.global)
	}
	return n.bind(t, b, err)
}

func (n *Node) parse(name string) (*target, error) {
	if n.closed.Load() {
		return nil, fmt.Errorf("%w: node %s", naming.ErrClosed, n.id)
	}
	var t target
	var err error
	if strings.HasPrefix(name, ".") {
		t.local, err = naming.ParseLocalName(name)
	} else {
		t.global, err = naming.ParseName(name)
	}
	return &t, err
}

// bind gives the Ref to a name that was found.
func (n *Node) bind(t *target, b Binding, err error) (Ref, error) {
	if err != nil {
		return Ref{}, err
	}
	known, _ := n.targets.LoadOrStore(t.String(), t)
	t = known.(*target)
	t.learn(b.Epoch)
	return Ref{node: n, target: t}, nil
}

// claim is Register for a cluster-wide name.
func (n *Node) claim(ctx context.Context, name naming.Name, s *service, o RegisterOptions) error {
	h := &heldName{name: name, s: s}
	if err := n.names.begin(h); err != nil {
		return n.refuse(name.String(), s.address(), err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.life(), func() { cancel(ErrServiceGone) })()
	defer context.AfterFunc(n.open, func() { cancel(fmt.Errorf("%w: node %s", naming.ErrClosed, n.id)) })()

	o.Notify = h.notify
	claim, err := n.registry.Register(ctx, name, s.address(), o)
	if err != nil {
		n.names.forget(h)
		if why := context.Cause(ctx); errors.Is(why, ErrServiceGone) || errors.Is(why, naming.ErrClosed) {
			return fmt.Errorf("register %s: %w", name, why)
		}
		return err
	}
	if !n.names.granted(h, claim) {
		n.giveBack([]*heldName{h}, releasePatience)
		return fmt.Errorf("register %s: %w", name, ErrServiceGone)
	}
	return nil
}

// giveBack releases names that nothing is served under any more, in the
// background, and is patient for so long in all. Close waits for it.
func (n *Node) giveBack(names []*heldName, patience time.Duration) {
	if len(names) == 0 {
		return
	}
	const workers = 32
	ctx, cancel := context.WithTimeout(n.base, patience)
	var wg sync.WaitGroup
	n.begin()
	for part := range slices.Chunk(names, (len(names)+workers-1)/workers) {
		wg.Go(func() {
			for _, h := range part {
				if err := h.release(ctx); err != nil {
					n.log.Warn().Stringer("name", h.name).Err(err).Msg("name not released: it becomes free when its lease ends")
				}
			}
		})
	}
	go func() {
		defer n.finish()
		wg.Wait()
		cancel()
	}()
}

// How patient a node is with a registry that does not answer to a release: as
// long as one call to a backend takes at most; not long when the node closes,
// because whoever closes the registry after it ends the leases, which frees the
// names too (promise L5).
const (
	releasePatience = 5 * time.Second
	closePatience   = 500 * time.Millisecond
)

// A heldName is a service's hold on a cluster-wide name: being claimed, held, or
// over.
type heldName struct {
	name naming.Name
	s    *service

	mu    sync.Mutex
	claim Claim         // nil while it is being claimed
	epoch uint64        // the highest under which it was held
	over  error         // why nothing is served under it ever again
	news  chan struct{} // closed when any of these changes; nil where nobody waits
}

// serving gives the epoch under which the service may speak as the name at this
// moment, or why it may not.
func (h *heldName) serving() (uint64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.servingLocked()
}

func (h *heldName) servingLocked() (uint64, error) {
	switch {
	case h.over != nil:
		return 0, h.over
	case h.claim == nil:
		return 0, fenced(h.name, "it is being claimed")
	}
	epoch, ok := h.claim.Serving()
	if !ok {
		return 0, fenced(h.name, "%w", naming.ErrLeaseLost)
	}
	h.epoch = max(h.epoch, epoch)
	return epoch, nil
}

// check says whether a message for epoch may be handled at this moment.
func (h *heldName) check(epoch uint64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.checkLocked(epoch)
}

func (h *heldName) checkLocked(epoch uint64) error {
	current, err := h.servingLocked()
	if err == nil && current != epoch {
		err = fenced(h.name, "the message is for epoch %d, and it is held under epoch %d", epoch, current)
	}
	return err
}

// settle is how long a sender waits who knows a higher epoch than the owner.
const settle = time.Second

// admit is check for a message that arrives. Its sender may know of a claim
// before we do, because the news travels two ways: then it waits for ours.
func (h *heldName) admit(ctx context.Context, epoch uint64) error {
	var patience <-chan time.Time
	for {
		h.mu.Lock()
		err := h.checkLocked(epoch)
		if err == nil || h.over != nil || epoch <= h.epoch {
			h.mu.Unlock()
			return err
		}
		if h.news == nil {
			h.news = make(chan struct{})
		}
		news := h.news
		h.mu.Unlock()
		if patience == nil {
			patience = time.After(settle)
		}
		select {
		case <-news:
		case <-patience:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// change changes the state and tells those who wait for news.
func (h *heldName) change(do func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	do()
	if h.news != nil {
		close(h.news)
		h.news = nil
	}
}

// notify is RegisterOptions.Notify of the name.
func (h *heldName) notify(ev NameEvent) {
	h.change(func() {
		h.epoch = max(h.epoch, ev.Epoch)
		if ev.Kind == NameLost && h.over == nil {
			h.over = fenced(h.name, "%w", ev.Err)
			if ev.Err == nil {
				h.over = fenced(h.name, "%w", naming.ErrLeaseLost)
			}
		}
	})
	if ev.Kind == NameLost {
		h.s.node.names.lost(h)
	}
	h.s.tell(ev)
}

// giveUp makes sure that nothing is served under the name any more.
func (h *heldName) giveUp() {
	h.change(func() { h.over = fenced(h.name, "it was given up") })
}

// release gives the name up and tells the registry.
func (h *heldName) release(ctx context.Context) error {
	h.giveUp()
	h.mu.Lock()
	claim := h.claim
	h.mu.Unlock()
	if claim == nil {
		return nil // granted will see that it is over
	}
	return claim.Release(ctx)
}

// names is which cluster-wide names the services of a node have.
type names struct {
	mu   sync.Mutex
	held map[naming.Name]*heldName
}

// begin notes that h is being claimed, so that messages that arrive before the
// registry's answer find it.
func (t *names) begin(h *heldName) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if h.s.isStopped() {
		return fmt.Errorf("register %s: %w", h.name, ErrServiceGone)
	}
	if old := h.s.heldName(h.name); old != nil {
		old.mu.Lock()
		over := old.over != nil
		old.mu.Unlock()
		if !over {
			return fmt.Errorf("register %s: %w: the service has it, or is claiming it", h.name, naming.ErrTaken)
		}
		t.unlist(old)
	}
	list := append(slices.Clone(h.s.heldNames()), h)
	h.s.names.Store(&list)
	return nil
}

// granted notes that h is held. False says that it was given up meanwhile, since
// its service ended.
func (t *names) granted(h *heldName, claim Claim) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	h.change(func() { h.claim = claim })
	if h.s.heldName(h.name) != h {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over == nil { // not lost at once
		t.held[h.name] = h
	}
	return true
}

// take gives the hold on name, which is then over; nil where there is none.
func (t *names) take(name naming.Name) *heldName {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.held[name]
	if h != nil {
		delete(t.held, name)
		t.unlist(h)
		h.giveUp()
	}
	return h
}

// takeFrom ends all holds of s, or of all services where s is nil, and gives
// those that are to be released.
func (t *names) takeFrom(s *service) []*heldName {
	t.mu.Lock()
	defer t.mu.Unlock()
	var taken []*heldName
	if s != nil {
		taken = s.heldNames()
		s.names.Store(nil)
	} else {
		for _, h := range t.held {
			t.unlist(h)
			taken = append(taken, h)
		}
	}
	for _, h := range taken {
		if t.held[h.name] == h {
			delete(t.held, h.name)
		}
		h.giveUp()
	}
	return taken
}

// lost notes that the registry gave h's name to someone else. The service keeps
// h, so that senders are told why.
func (t *names) lost(h *heldName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held[h.name] == h {
		delete(t.held, h.name)
	}
}

// forget takes back begin.
func (t *names) forget(h *heldName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unlist(h)
	h.giveUp()
}

func (t *names) unlist(h *heldName) {
	list := slices.DeleteFunc(slices.Clone(h.s.heldNames()), func(other *heldName) bool { return other == h })
	h.s.names.Store(&list)
}

// owner gives the service that holds name, nil for none.
func (t *names) owner(name naming.Name) *service {
	t.mu.Lock()
	defer t.mu.Unlock()
	if h := t.held[name]; h != nil {
		return h.s
	}
	return nil
}
