package adapter_test

import (
	"context"
	"iter"
	"sync/atomic"
	"time"

	"github.com/seed-6593ebad/skywarden/adapter"
	"github.com/seed-6593ebad/skywarden/backends/memory"
	"github.com/seed-6593ebad/skywarden/naming"
)

// A hooked backend is the built-in name server with a word in what happens
// before a call, in its answers, and in its watches. Nil hooks change nothing.
type hooked struct {
	*memory.Backend
	before func(op string, name naming.Name) error
	after  func(op string, name naming.Name) error
	slow   atomic.Bool // leases take 5 s to close
	events func(iter.Seq2[naming.Event, error]) iter.Seq2[naming.Event, error]
}

type hookedLease struct {
	naming.Lease
	h *hooked
}

func (h *hooked) call(op string, name naming.Name, do func() error) error {
	if h.before != nil {
		if err := h.before(op, name); err != nil {
			return &naming.Error{Op: op, Name: name, Err: err}
		}
	}
	err := do()
	if h.after != nil {
		if lost := h.after(op, name); lost != nil {
			return &naming.Error{Op: op, Name: name, Err: lost}
		}
	}
	return err
}

func (h *hooked) Lease(ctx context.Context, ttl time.Duration) (l naming.Lease, err error) {
	err = h.call("lease", naming.Name{}, func() error { l, err = h.Backend.Lease(ctx, ttl); return err })
	if err != nil {
		return nil, err
	}
	return &hookedLease{l, h}, nil
}

func (h *hooked) Watch(ctx context.Context, sc naming.Scope) iter.Seq2[naming.Event, error] {
	w := h.Backend.Watch(ctx, sc)
	if h.events != nil {
		return h.events(w)
	}
	return w
}

func (l *hookedLease) Claim(ctx context.Context, name naming.Name, value []byte, over naming.Revision) (rev naming.Revision, err error) {
	err = l.h.call("claim", name, func() error { rev, err = l.Lease.Claim(ctx, name, value, over); return err })
	return rev, err
}

func (l *hookedLease) Release(ctx context.Context, name naming.Name) error {
	return l.h.call("release", name, func() error { return l.Lease.Release(ctx, name) })
}

func (l *hookedLease) Close(ctx context.Context) error {
	if l.h.slow.Load() {
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Second):
		}
	}
	return l.Lease.Close(ctx)
}

func (w *world) hooked() (*hooked, func(*adapter.Config)) {
	h := &hooked{Backend: w.srv.Open()}
	w.Cleanup(func() { _ = h.Close() })
	return h, func(c *adapter.Config) { c.Backend = h }
}
