package backendtest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
)

// callBound is the longest that a call may take whatever the server does, and
// cancelBound the longest after its context ended.
const (
	callBound   = 5 * time.Second
	cancelBound = 250 * time.Millisecond
)

// checked wraps what a harness opens, and checks at every call what holds for
// all: errors are *naming.Error round a known sentinel, nothing takes longer
// than it may, and an error comes without a value.
type checked struct {
	naming.Backend
	t        *testing.T
	injected bool // Harness.Injected
}

// call runs f and checks its error. An injected fault is tried again: the fault
// is the wrapper's doing, and the driver's answer is what is to be checked.
func (c *checked) call(ctx context.Context, op string, name naming.Name, f func() error) error {
	c.t.Helper()
	for {
		start := time.Now()
		err := f()
		took := time.Since(start)
		if took > callBound+slack {
			c.t.Errorf("%s %v: took %v, more than the %v a driver may wait for its server", op, name, took, callBound)
		}
		c.error(op, name, err)
		if c.injected && ctx.Err() == nil && errors.Is(err, ErrInjected) && errors.Is(err, naming.ErrUnavailable) {
			continue
		}
		return err
	}
}

func (c *checked) error(op string, name naming.Name, err error) {
	c.t.Helper()
	if err == nil {
		return
	}
	var typed *naming.Error
	switch {
	case !errors.As(err, &typed):
		c.t.Errorf("%s %v: the error is no *naming.Error: %T %v", op, name, err, err)
	case typed.Op == "" || typed.Op != strings.ToLower(typed.Op):
		c.t.Errorf("%s %v: the error's Op is %q, want a word in lower case", op, name, typed.Op)
	case !typed.Name.IsZero() && typed.Name != name:
		c.t.Errorf("%s %v: the error names %v", op, name, typed.Name)
	case naming.Code(err) == "internal":
		c.t.Errorf("%s %v: the error wraps no sentinel of package naming: %v", op, name, err)
	case errors.Is(err, naming.ErrTaken) && !errors.As(err, new(*naming.TakenError)):
		c.t.Errorf("%s %v: the error is ErrTaken and no *TakenError: %v", op, name, err)
	}
}

// Lease implements naming.Backend.
func (c *checked) Lease(ctx context.Context, ttl time.Duration) (naming.Lease, error) {
	c.t.Helper()
	var l naming.Lease
	err := c.call(ctx, "lease", naming.Name{}, func() (err error) {
		l, err = c.Backend.Lease(ctx, ttl)
		return err
	})
	if err != nil {
		if l != nil {
			c.t.Errorf("lease: there is a lease beside the error %v", err)
		}
		return nil, err
	}
	return &checkedLease{l, c}, nil
}

// Get implements naming.Backend.
func (c *checked) Get(ctx context.Context, name naming.Name) (e naming.Entry, err error) {
	c.t.Helper()
	err = c.call(ctx, "get", name, func() error {
		e, err = c.Backend.Get(ctx, name)
		return err
	})
	switch {
	case err != nil && (e.Revision != 0 || e.Value != nil):
		c.t.Errorf("get %v: there is an entry beside the error %v", name, err)
	case err == nil && e.Name != name:
		c.t.Errorf("get %v: the entry is that of %v", name, e.Name)
	case err == nil && e.Revision == 0:
		c.t.Errorf("get %v: the entry has revision 0, which means that there is none", name)
	}
	return e, err
}

// Watch implements naming.Backend.
func (c *checked) Watch(ctx context.Context, scope naming.Scope) iter.Seq2[naming.Event, error] {
	return func(yield func(naming.Event, error) bool) {
		name, _ := scope.Name()
		var last error
		for ev, err := range c.Backend.Watch(ctx, scope) {
			if last != nil {
				c.t.Errorf("watch %v: another pair came after the last, which had the error %v", scope, last)
				return
			}
			if err != nil {
				last = err
				c.error("watch", name, err)
				if ev.Kind != 0 {
					c.t.Errorf("watch %v: there is an event beside the error %v", scope, err)
				}
			}
			if !yield(ev, err) {
				return
			}
		}
		if last == nil {
			c.t.Errorf("watch %v: it ended without an error", scope)
		}
	}
}

// checkedLease does the same for a lease.
type checkedLease struct {
	naming.Lease
	b *checked
}

// Claim implements naming.Lease.
func (l *checkedLease) Claim(ctx context.Context, name naming.Name, value []byte, over naming.Revision) (naming.Revision, error) {
	l.b.t.Helper()
	return l.write(ctx, "claim", name, func() (naming.Revision, error) { return l.Lease.Claim(ctx, name, value, over) })
}

// Update implements naming.Lease.
func (l *checkedLease) Update(ctx context.Context, name naming.Name, value []byte, prev naming.Revision) (naming.Revision, error) {
	l.b.t.Helper()
	return l.write(ctx, "update", name, func() (naming.Revision, error) { return l.Lease.Update(ctx, name, value, prev) })
}

func (l *checkedLease) write(ctx context.Context, op string, name naming.Name, f func() (naming.Revision, error)) (rev naming.Revision, err error) {
	l.b.t.Helper()
	err = l.b.call(ctx, op, name, func() error {
		rev, err = f()
		return err
	})
	var taken *naming.TakenError
	switch {
	case err == nil && rev == 0:
		l.b.t.Errorf("%s %v: the revision of a success is 0", op, name)
	case err != nil && rev != 0:
		l.b.t.Errorf("%s %v: there is a revision beside the error %v", op, name, err)
	case errors.As(err, &taken) && taken.Entry.Name != name:
		l.b.t.Errorf("%s %v: the TakenError carries the entry of %v", op, name, taken.Entry.Name)
	case errors.Is(err, naming.ErrOutcomeUnknown):
		select {
		case <-l.Done():
		default:
			l.b.t.Errorf("%s %v: the outcome is unknown, and the lease was not ended", op, name)
		}
	}
	return rev, err
}

// Release implements naming.Lease.
func (l *checkedLease) Release(ctx context.Context, name naming.Name) error {
	l.b.t.Helper()
	return l.b.call(ctx, "release", name, func() error { return l.Lease.Release(ctx, name) })
}

// Close implements naming.Lease.
func (l *checkedLease) Close(ctx context.Context) error {
	l.b.t.Helper()
	return l.b.call(ctx, "close lease", naming.Name{}, func() error { return l.Lease.Close(ctx) })
}

// A call is one of all the calls that a Backend and a Lease offer.
type call struct {
	op   string
	call func(ctx context.Context) error
}

// reads and writes give every call about name and scope.
func reads(b naming.Backend, name naming.Name, scope naming.Scope) []call {
	return []call{
		{"get", func(ctx context.Context) error { _, err := b.Get(ctx, name); return err }},
		{"watch " + fmt.Sprintf("%q", scope), func(ctx context.Context) error { return firstError(ctx, b, scope) }},
	}
}

func writes(l naming.Lease, name naming.Name, rev naming.Revision) []call {
	value := []byte("must not be stored")
	return []call{
		{"claim", func(ctx context.Context) error { _, err := l.Claim(ctx, name, value, 0); return err }},
		{"claim over", func(ctx context.Context) error { _, err := l.Claim(ctx, name, value, rev); return err }},
		{"update", func(ctx context.Context) error { _, err := l.Update(ctx, name, value, rev); return err }},
		{"release", func(ctx context.Context) error { return l.Release(ctx, name) }},
	}
}

// firstError ranges over a watch up to its first Put or Synced, or its error.
func firstError(ctx context.Context, b naming.Backend, scope naming.Scope) error {
	for ev, err := range b.Watch(ctx, scope) {
		if err != nil {
			return err
		}
		if ev.Kind != naming.Down && ev.Kind != naming.Alive {
			return nil
		}
	}
	return nil
}
