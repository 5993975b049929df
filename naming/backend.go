package naming

import (
	"context"
	"iter"
	"time"
)

// MaxValueLen is the most that an entry's value may have, in bytes. A backend
// refuses a longer one with ErrTooLarge before it sends anything.
const MaxValueLen = 4096

// A Revision orders what is seen of one name: a later state of the name,
// deletions included, has a higher one. It is given by the backend, never 0 for
// something that exists, and proves nothing to anybody else: after the restore
// of an old snapshot revisions may fall, and then the driver lists again.
type Revision uint64

// An Entry is what a backend stores under a name.
type Entry struct {
	Name     Name
	Value    []byte   // opaque; the receiver may keep it, nobody may change it
	Revision Revision // 0 means that there is no entry
	Held     bool     // a live lease holds it
}

// A Backend is a driver for one registry. It speaks for one principal: the
// credential, or a source of it, is in the driver's configuration. All methods
// may be called at any time from any goroutine.
//
// Common to all methods, and to those of Lease:
//
//   - A cancelled or expired context ends the call at once with an error that
//     wraps ctx.Err(), whatever the server is doing. What the call had already
//     sent is undone in the background where it could do harm.
//   - A call has a deadline of the driver's own (at most 5 s) besides the
//     context's. A server that does not answer within it is ErrUnavailable.
//   - ErrUnauthenticated: the server does not accept the credential. ErrDenied:
//     it does, and forbids the call. Neither is retried by the driver.
//   - ErrUnavailable: no answer, or an answer that says "not now". A driver
//     retries inside its deadline where a repetition is harmless.
//   - ErrClosed after Close.
//   - ErrNameInvalid for the zero Name or the zero Scope.
//   - Errors are *Error, wrapped round one of the sentinels of this package.
type Backend interface {
	// Lease opens a lease that its driver keeps alive until Close, or until the
	// server gives it up. Names claimed under it become free together when it
	// ends. A ttl of 0 means the driver's default; one outside the driver's
	// limits (see Description) is refused with ErrInsecureConfig. The context
	// bounds the opening only.
	Lease(ctx context.Context, ttl time.Duration) (Lease, error)

	// Get reads one entry, linearizably: it sees every write that ended before
	// Get began. ErrNotFound means that there is no entry, and nothing else does.
	Get(ctx context.Context, name Name) (Entry, error)

	// Watch gives what is there now in scope as Put events, in no order, then one
	// Synced, then changes as they happen; see Event. Names outside scope are
	// never seen. The sequence ends only with its last pair, whose error says why:
	// the context's, ErrClosed, ErrDenied or ErrUnauthenticated (also when the
	// permission is taken away later; within 60 s). An outage does not end it. Each
	// range over the sequence is a new watch, with its own goroutines, all gone
	// when the range statement ends.
	Watch(ctx context.Context, scope Scope) iter.Seq2[Event, error]

	// Close ends every lease that this Backend opened, as Lease.Close does, every
	// watch and the connection. It takes at most 2 s, also when the server is
	// away. It is idempotent.
	Close() error
}

// A Lease holds names for its owner as long as it lives. It is kept alive by
// its driver. It belongs to one principal.
//
// A write whose answer is lost is ambiguous. The driver reads back; if it is
// still unclear, it ends the lease before it reports ErrOutcomeUnknown, because
// the write may land later. A write whose caller's context ended goes on in the
// background until its outcome is known, and is undone if it took effect; a
// later call for the same name on the same lease waits for that. So after any
// error of Claim or Update, either the write did not happen and will not, or it
// is being undone, or Done is closed and the entry goes with the lease.
type Lease interface {
	// Claim puts value under name and ties the entry to this lease, in one atomic
	// step.
	//
	// over == 0: nothing that a live lease holds may be there, this lease included.
	// An entry that no lease holds is replaced. Otherwise: exactly the entry with
	// revision over is replaced, whoever holds it, and nothing else.
	//
	// Errors: *TakenError (ErrTaken) with what is there instead (an Entry with
	// revision 0 when there is nothing), ErrLeaseLost, ErrTooLarge, ErrDenied,
	// ErrOutcomeUnknown, and those common to all.
	Claim(ctx context.Context, name Name, value []byte, over Revision) (Revision, error)

	// Update replaces the value of an entry that this lease holds and that still
	// has the revision prev. Errors as those of Claim: *TakenError when the entry
	// has another revision, another holder or is gone.
	Update(ctx context.Context, name Name, value []byte, prev Revision) (Revision, error)

	// Release deletes the entry if this lease holds it, and leaves it alone
	// otherwise. It returns nil when afterwards no entry under name is held by this
	// lease, so it may be repeated.
	Release(ctx context.Context, name Name) error

	// Deadline is the moment after which a claim may be someone else's: the start
	// of the last successful renewal plus the smaller of requested and granted
	// TTL. It carries a monotonic reading. It moves forward while the lease lives.
	Deadline() time.Time

	// Done is closed once the lease is known to be gone, whoever ended it, and at
	// the latest when its deadline has passed.
	Done() <-chan struct{}

	// Close ends the lease: its names are free at once where the server can be
	// reached, else after the TTL, and then Close says so with ErrUnavailable.
	// Renewal stops in any case. It is idempotent.
	Close(ctx context.Context) error
}

// A Describer is a Backend that says what it is like. Without it, the zero
// Description is assumed.
type Describer interface {
	Describe() Description
}

// A Description tells the adapter how to use a backend well.
type Description struct {
	Driver        string        // "etcd": used in logs, errors and metrics
	InProcess     bool          // the names of this process alone: an allow-list is not demanded
	MirrorAll     bool          // one watch over all names is cheap; otherwise names are watched as they are used
	NamesPerLease int           // most names that one lease should hold; 0: no limit
	DefaultTTL    time.Duration // used where Lease is asked for 0
	MinTTL        time.Duration
	MaxTTL        time.Duration // 0: no limit
}

// Describe gives b's Description, or the zero one.
func Describe(b Backend) Description {
	if d, ok := b.(Describer); ok {
		return d.Describe()
	}
	return Description{}
}

// An Identifier is a Backend that knows as whom the server sees it.
type Identifier interface {
	// WhoAmI gives the name of the principal. Where the driver has to ask the
	// server, errors are those common to all methods of Backend.
	WhoAmI(ctx context.Context) (string, error)
}
