package runtime

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/seed-6593ebad/skywarden/naming"
)

// locals is the node-local names: the first who registers has the name, until
// the service ends or the name is released.
type locals struct {
	open context.Context // ends when the node closes

	mu      sync.RWMutex
	owners  map[naming.LocalName]*service
	changed chan struct{} // closed at the next change
}

func newLocals(open context.Context) locals {
	return locals{open: open, owners: make(map[naming.LocalName]*service), changed: make(chan struct{})}
}

func (l *locals) register(ctx context.Context, name naming.LocalName, s *service, standby bool) error {
	for {
		l.mu.Lock()
		if s.isStopped() {
			l.mu.Unlock()
			return fmt.Errorf("register %s: %w", name, ErrServiceGone)
		}
		owner, taken := l.owners[name]
		if !taken {
			l.owners[name] = s
			s.locals = append(s.locals, name)
			l.announce()
			l.mu.Unlock()
			return nil
		}
		changed := l.changed
		l.mu.Unlock()
		if !standby || owner == s {
			return fmt.Errorf("register %s: %w by service %d of this node", name, naming.ErrTaken, owner.handle)
		}
		if err := l.wait(ctx, changed); err != nil {
			return fmt.Errorf("register %s: %w", name, err)
		}
	}
}

func (l *locals) lookup(name naming.LocalName) (naming.Address, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if s := l.owners[name]; s != nil {
		return s.address(), nil
	}
	return naming.Address{}, fmt.Errorf("%s: %w on this node", name, naming.ErrNotFound)
}

func (l *locals) query(ctx context.Context, name naming.LocalName) error {
	for {
		l.mu.RLock()
		_, there := l.owners[name]
		changed := l.changed
		l.mu.RUnlock()
		if there {
			return nil
		}
		if err := l.wait(ctx, changed); err != nil {
			return fmt.Errorf("query %s: %w", name, err)
		}
	}
}

// wait waits for a change.
func (l *locals) wait(ctx context.Context, changed <-chan struct{}) error {
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-l.open.Done():
		return naming.ErrClosed
	}
}

func (l *locals) release(name naming.LocalName) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.owners[name]
	if s == nil {
		return fmt.Errorf("release %s: %w on this node", name, naming.ErrNotFound)
	}
	delete(l.owners, name)
	s.locals = slices.DeleteFunc(s.locals, func(n naming.LocalName) bool { return n == name })
	l.announce()
	return nil
}

// drop frees the names of a service that ended.
func (l *locals) drop(s *service) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range s.locals {
		delete(l.owners, name)
	}
	s.locals = nil
	l.announce() // also to s itself, which may wait for a name
}

// of gives the names of s.
func (l *locals) of(s *service) []string {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var names []string
	for _, name := range s.locals {
		names = append(names, name.String())
	}
	return names
}

func (l *locals) owner(name naming.LocalName) *service {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.owners[name]
}

// announce wakes everybody who waits. The caller holds mu.
func (l *locals) announce() {
	close(l.changed)
	l.changed = make(chan struct{})
}
