package naming

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// The kinds of errors. Test for them with errors.Is. Each has a Code.
var (
	// ErrNameInvalid: not a name by the grammar of Name, LocalName, NodeID or
	// Scope.
	ErrNameInvalid = errors.New("invalid name")
	// ErrNameNotAllowed: the allow-list does not know the name, or does not give it
	// to this principal. Nothing was sent to the backend.
	ErrNameNotAllowed = errors.New("name not allowed")
	// ErrAddressNotAllowed: not an address that a service may have: unparsable, or
	// outside the ranges and ports that the allow-list gives the name.
	ErrAddressNotAllowed = errors.New("address not allowed")
	// ErrTaken: someone else holds the name. See TakenError.
	ErrTaken = errors.New("name taken")
	// ErrUnauthenticated: the backend does not accept the credential.
	ErrUnauthenticated = errors.New("not authenticated")
	// ErrDenied: the backend knows the principal and forbids the call.
	ErrDenied = errors.New("permission denied")
	// ErrTooLarge: more bytes than allowed.
	ErrTooLarge = errors.New("too large")
	// ErrMalformed: bytes that are not what they should be.
	ErrMalformed = errors.New("malformed")
	// ErrFenced: the message was meant for an owner of the name who is no longer
	// the owner, or comes from one.
	ErrFenced = errors.New("fenced")
	// ErrLeaseLost: the lease behind a claim is gone: the name must not be answered
	// to any more.
	ErrLeaseLost = errors.New("lease lost")
	// ErrUnavailable: no answer within the deadline, or one that says "not now".
	ErrUnavailable = errors.New("unavailable")
	// ErrOutcomeUnknown: a write was sent and its answer was lost; the lease was
	// ended, so that the write cannot last.
	ErrOutcomeUnknown = errors.New("outcome unknown")
	// ErrNotFound: there is no such name. Only a linearizable read, or a mirror that
	// is synced and live, says so.
	ErrNotFound = errors.New("not found")
	// ErrInsecureConfig: a configuration that would not be safe.
	ErrInsecureConfig = errors.New("insecure configuration")
	// ErrInsecureBackendVersion: the server has known holes that defeat its access
	// control.
	ErrInsecureBackendVersion = errors.New("insecure backend version")
	// ErrClosed: used after Close.
	ErrClosed = errors.New("closed")
)

// codes are looked through in order: an error that is several things has the
// code of the first. A caller's own cancellation comes before everything else.
var codes = []struct {
	err  error
	code string
}{
	{context.Canceled, "canceled"},
	{ErrNameInvalid, "name_invalid"},
	{ErrNameNotAllowed, "name_not_allowed"},
	{ErrAddressNotAllowed, "address_not_allowed"},
	{ErrTaken, "taken"},
	{ErrUnauthenticated, "unauthenticated"},
	{ErrDenied, "denied"},
	{ErrTooLarge, "too_large"},
	{ErrMalformed, "malformed"},
	{ErrFenced, "fenced"},
	{ErrLeaseLost, "lease_lost"},
	{ErrOutcomeUnknown, "outcome_unknown"},
	{ErrInsecureBackendVersion, "insecure_backend_version"},
	{ErrInsecureConfig, "insecure_config"},
	{ErrUnavailable, "unavailable"},
	{ErrNotFound, "not_found"},
	{ErrClosed, "closed"},
	{context.DeadlineExceeded, "timeout"},
}

// Code gives the kind of an error as a word, for logs, metrics and exit codes:
// "ok" for nil, the word of the sentinel that err wraps, "canceled" or "timeout"
// for a context's end, and "internal" for everything else. The set is closed;
// words are added, never changed.
func Code(err error) string {
	if err == nil {
		return "ok"
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return "internal"
}

// An Error says which operation on which name failed where. Every error of a
// Backend or a Lease is one.
type Error struct {
	Op      string // "claim", "get", …: lower case
	Name    Name   // zero where the operation has none
	Backend string // the driver: "etcd"
	Err     error  // wraps a sentinel of this package
}

// Error gives "etcd: claim game.lobby: permission denied".
func (e *Error) Error() string {
	var b strings.Builder
	if e.Backend != "" {
		b.WriteString(e.Backend + ": ")
	}
	b.WriteString(e.Op)
	if !e.Name.IsZero() {
		b.WriteString(" " + e.Name.String())
	}
	return b.String() + ": " + e.Err.Error()
}

// Unwrap gives Err.
func (e *Error) Unwrap() error { return e.Err }

// A TakenError is the ErrTaken of Claim and Update: it carries what is there
// instead of what the caller expected. Entry.Revision 0 means that nothing is.
type TakenError struct{ Entry Entry }

// Error describes what is there, without its value: that is for the adapter to
// read.
func (e *TakenError) Error() string {
	switch {
	case e.Entry.Revision == 0:
		return "name taken: the entry is gone"
	case e.Entry.Held:
		return fmt.Sprintf("name taken: held at revision %d", e.Entry.Revision)
	}
	return fmt.Sprintf("name taken: revision %d, which no lease holds, is there", e.Entry.Revision)
}

// Is makes errors.Is(err, ErrTaken) true.
func (e *TakenError) Is(target error) bool { return target == ErrTaken }
