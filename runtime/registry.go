package runtime

import (
	"context"

	"github.com/seed-6593ebad/skywarden/naming"
)

// A Registry is what the runtime asks of the naming adapter. Its methods may be
// called from any goroutine.
type Registry interface {
	// Register claims name for the service at addr and keeps it until Release:
	// through outages and lost leases it claims again, for ever, and tells so
	// through opts.Notify. Errors are those of the adapter: ErrNameNotAllowed,
	// ErrAddressNotAllowed, ErrTaken, ErrDenied, ErrUnauthenticated,
	// ErrUnavailable, ErrOutcomeUnknown, ErrClosed of package naming, or the
	// context's. After an error nothing is registered.
	Register(ctx context.Context, name naming.Name, addr naming.Address, opts RegisterOptions) (Claim, error)

	// Refused tells of a registration that the runtime refused by itself and did not
	// ask for: of something that is no name, for a service that is not there, of a
	// name that the service has already. It is reported as Register's refusals are.
	// addr is zero where there is none.
	Refused(name string, addr naming.Address, err error)

	// Lookup says where name is answered now. It does not wait for the name to
	// appear: ErrNotFound says that nobody holds it.
	Lookup(ctx context.Context, name naming.Name) (Binding, error)

	// Query is Lookup that waits until the name is held or ctx ends.
	Query(ctx context.Context, name naming.Name) (Binding, error)
}

// RegisterOptions change one registration.
type RegisterOptions struct {
	// Standby makes Register wait until the name is free, instead of failing with
	// ErrTaken.
	Standby bool
	// Notify is told what becomes of the name after Register returned: one call at
	// a time, in order. It must return soon and must not use the Claim, which waits
	// for it. It is not called after Release returned. May be nil.
	Notify func(NameEvent)
}

// A NameEventKind says what became of a name.
type NameEventKind uint8

// What can become of a name that a service holds.
const (
	// NameSuspended: the node must not answer as this name at the moment: its lease
	// is lost or could not be renewed in time. The name is being claimed again.
	NameSuspended NameEventKind = iota + 1
	// NameResumed: the name is held again, under a new epoch.
	NameResumed
	// NameLost: the name belongs to someone else now. This is final.
	NameLost
)

// String gives the kind in lower case.
func (k NameEventKind) String() string {
	switch k {
	case NameSuspended:
		return "suspended"
	case NameResumed:
		return "resumed"
	case NameLost:
		return "lost"
	}
	return "unknown"
}

// A NameEvent tells the owner of a name what became of it.
type NameEvent struct {
	Name  naming.Name
	Kind  NameEventKind
	Epoch uint64 // of NameResumed
	Err   error  // why; nil for NameResumed
}

// A Claim is the hold on one name.
type Claim interface {
	// Name is what is claimed.
	Name() naming.Name

	// Serving says whether the owner may answer as the name at this moment, and
	// under which epoch. It looks at the clock, so it turns false before the
	// backend can give the name to another, also when the process was stopped for a
	// while (promise S4). It does not block and does not allocate.
	Serving() (epoch uint64, ok bool)

	// Release gives the name up. It may be repeated. Nothing is served under the
	// name from the moment it is called; an error means that the name becomes free
	// only when its lease ends.
	Release(ctx context.Context) error
}

// A Binding says where a name is answered.
type Binding struct {
	Address naming.Address
	Epoch   uint64 // of the claim; goes upwards from owner to owner
	Stale   bool   // the registry cannot be reached: this is the last known owner
}
