package adapter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/seed-6593ebad/skywarden/adapter/record"
	"github.com/seed-6593ebad/skywarden/naming"
	"github.com/seed-6593ebad/skywarden/runtime"
)

// This file is the whole way of a naming call. The order of its steps is a
// promise (fail closed, nothing reaches the backend that the steps before it
// refused): it is written out here and cannot be configured.

// Register implements runtime.Registry.
//
// An entry under the name that gives the very endpoint of this node is a
// leftover of an earlier process, and is taken over without waiting for its
// lease to end. (For loopback endpoints, which mean something else on each
// machine, the node's name must be the same too.)
func (a *Adapter) Register(ctx context.Context, name naming.Name, addr naming.Address, opts runtime.RegisterOptions) (runtime.Claim, error) {
	c, err := a.register(ctx, name, addr, opts)
	event := Event{Kind: EventRegister, Name: name, Address: addr, Err: err}
	if err != nil {
		if taken, ok := errors.AsType[*TakenError](err); ok {
			event.Holder = taken.Holder
		}
		err = &naming.Error{Op: "register", Name: name, Err: err}
		a.tell(event)
		return nil, err
	}
	event.Epoch, _ = c.Serving()
	a.tell(event)
	return c, nil
}

// Refused implements runtime.Registry: it reports what did not get as far as
// Register.
func (a *Adapter) Refused(name string, addr naming.Address, err error) {
	parsed, _ := naming.ParseName(name) // where it is none, err quotes it
	a.tell(Event{Kind: EventRegister, Name: parsed, Address: addr, Err: err})
}

func (a *Adapter) register(ctx context.Context, name naming.Name, addr naming.Address, opts runtime.RegisterOptions) (*claim, error) {
	// 1. Grammar. Values of these types were parsed; the zero ones were not.
	if name.IsZero() {
		return nil, fmt.Errorf("%w: no name given", naming.ErrNameInvalid)
	}
	if addr.Node() != a.node || addr.Endpoint() != a.endpoint {
		return nil, fmt.Errorf("%w: %s is not on this node, which is %s at %s", naming.ErrAddressNotAllowed, addr, a.node, a.endpoint)
	}
	// 2. Allow-list: may this principal own this name, from this address?
	if a.allow != nil {
		if err := a.identify(ctx); err != nil {
			return nil, err
		}
		if err := a.allow.MayOwn(name, a.Principal(), addr.Endpoint()); err != nil {
			return nil, err
		}
	}
	// 3. Claim, in the backend.
	return a.keeper.register(ctx, name, addr, opts)
	// 4. Log and observers: in Register, whatever came out.
}

// Lookup implements runtime.Registry.
func (a *Adapter) Lookup(ctx context.Context, name naming.Name) (runtime.Binding, error) {
	// 1. to 3. of the steps below, in one look at the mirror: a slot remembers the
	// answer of the allow-list, which does not change.
	if s := a.mirror.slot(name); s != nil {
		if b, ok := s.answer(a); ok {
			return b, nil
		}
	}
	b, err := a.lookup(ctx, name)
	if err != nil {
		err = &naming.Error{Op: "lookup", Name: name, Err: err}
	}
	return b, err
}

func (a *Adapter) lookup(ctx context.Context, name naming.Name) (runtime.Binding, error) {
	// 1. Grammar.
	if name.IsZero() {
		return runtime.Binding{}, fmt.Errorf("%w: no name given", naming.ErrNameInvalid)
	}
	// 2. Allow-list: is this a known name, and may this principal ask for it?
	if a.allow != nil {
		if err := a.identify(ctx); err != nil {
			return runtime.Binding{}, err
		}
		if err := a.allow.MayLookUp(name, a.Principal()); err != nil {
			return runtime.Binding{}, err
		}
	}
	// 3. Mirror.
	if err := a.ctx.Err(); err != nil {
		return runtime.Binding{}, naming.ErrClosed
	}
	b, known, err := a.mirror.lookup(name)
	if known {
		return b, err
	}
	// 4. Backend: one linearizable read for all who ask at the same time.
	entry, err := a.read(ctx, name)
	if err != nil {
		return runtime.Binding{}, err
	}
	// 5. What the entry says.
	if !entry.Held {
		return runtime.Binding{}, fmt.Errorf("%w: no live lease holds the entry", naming.ErrNotFound)
	}
	return a.resolve(entry)
}

// Query implements runtime.Registry. Its error at the end of ctx wraps the
// context's and what the last look-up said.
func (a *Adapter) Query(ctx context.Context, name naming.Name) (runtime.Binding, error) {
	for {
		// The order matters: a change after this line wakes the wait below.
		changed, stop := a.mirror.changed(name)
		b, err := a.Lookup(ctx, name)
		if err == nil || !waitsFor(err) {
			stop()
			return b, err
		}
		select {
		case <-changed:
		case <-a.mirror.poll(name):
		case <-ctx.Done():
			stop()
			return runtime.Binding{}, &naming.Error{Op: "query", Name: name, Err: fmt.Errorf("%w (%w)", ctx.Err(), errors.Unwrap(err))}
		case <-a.ctx.Done():
			stop()
			return runtime.Binding{}, &naming.Error{Op: "query", Name: name, Err: naming.ErrClosed}
		}
		stop()
	}
}

// waitsFor says whether waiting may mend the error of a look-up.
func waitsFor(err error) bool {
	return errors.Is(err, naming.ErrNotFound) || errors.Is(err, naming.ErrUnavailable)
}

// readPatience is how long a look-up waits for the backend.
const readPatience = 900 * time.Millisecond

// read gets an entry; callers that come while a read of the name is under way
// share its answer.
func (a *Adapter) read(ctx context.Context, name naming.Name) (naming.Entry, error) {
	shared := a.reads.DoChan(name.String(), func() (any, error) {
		within, cancel := context.WithTimeout(a.ctx, readPatience)
		defer cancel()
		e, err := a.backend.Get(within, name)
		if err != nil && within.Err() != nil {
			err = fmt.Errorf("%w: no answer within %s", naming.ErrUnavailable, readPatience)
		}
		return e, err
	})
	select {
	case r := <-shared:
		if r.Err != nil {
			if a.ctx.Err() != nil {
				return naming.Entry{}, naming.ErrClosed
			}
			return naming.Entry{}, r.Err
		}
		return r.Val.(naming.Entry), nil
	case <-ctx.Done():
		return naming.Entry{}, ctx.Err()
	}
}

// resolve says what a held entry means: the one place where bytes from a backend
// become an address.
func (a *Adapter) resolve(e naming.Entry) (runtime.Binding, error) {
	r, err := record.Decode(e.Value)
	if err != nil {
		return runtime.Binding{}, err
	}
	return runtime.Binding{Address: r.Address, Epoch: r.Epoch}, nil
}

// A TakenError is the ErrTaken of Register: it names the holder.
type TakenError struct {
	Holder naming.Address // zero where the entry cannot be read
	Epoch  uint64
}

// Error names the holder.
func (e *TakenError) Error() string {
	if e.Holder.IsZero() {
		return "name taken, by an entry that cannot be read"
	}
	return "name taken by " + e.Holder.String()
}

// Is makes errors.Is(err, naming.ErrTaken) true.
func (e *TakenError) Is(target error) bool { return target == naming.ErrTaken }
