package naming_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"testing"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
)

// The words are for logs, metrics and exit codes of others: they are added to,
// never changed.
func TestCodeIsAClosedSet(t *testing.T) {
	words := map[string]error{
		"canceled":                 context.Canceled,
		"name_invalid":             naming.ErrNameInvalid,
		"name_not_allowed":         naming.ErrNameNotAllowed,
		"address_not_allowed":      naming.ErrAddressNotAllowed,
		"taken":                    naming.ErrTaken,
		"unauthenticated":          naming.ErrUnauthenticated,
		"denied":                   naming.ErrDenied,
		"too_large":                naming.ErrTooLarge,
		"malformed":                naming.ErrMalformed,
		"fenced":                   naming.ErrFenced,
		"lease_lost":               naming.ErrLeaseLost,
		"outcome_unknown":          naming.ErrOutcomeUnknown,
		"insecure_backend_version": naming.ErrInsecureBackendVersion,
		"insecure_config":          naming.ErrInsecureConfig,
		"unavailable":              naming.ErrUnavailable,
		"not_found":                naming.ErrNotFound,
		"closed":                   naming.ErrClosed,
		"timeout":                  context.DeadlineExceeded,
		"internal":                 io.ErrUnexpectedEOF,
		"ok":                       nil,
	}
	for want, err := range words {
		if got := naming.Code(err); got != want {
			t.Errorf("the code of %v is %q, want %q", err, got, want)
		}
		if err == nil {
			continue
		}
		wrapped := fmt.Errorf("round: %w", &naming.Error{Op: "get", Err: fmt.Errorf("%w: more", err)})
		if got := naming.Code(wrapped); got != want {
			t.Errorf("the code of %v is %q, want %q", wrapped, got, want)
		}
	}
	if got := naming.Code(&naming.TakenError{}); got != "taken" {
		t.Errorf("the code of a TakenError is %q", got)
	}
	// Of an error that is several things, the first of the list.
	for _, c := range []struct {
		err  error
		want string
	}{
		{errors.Join(naming.ErrUnavailable, context.Canceled), "canceled"},
		{errors.Join(context.DeadlineExceeded, naming.ErrUnavailable), "unavailable"},
		{errors.Join(naming.ErrNotFound, naming.ErrDenied), "denied"},
		{errors.Join(naming.ErrDenied, naming.ErrUnauthenticated), "unauthenticated"},
		{errors.Join(naming.ErrUnavailable, naming.ErrOutcomeUnknown), "outcome_unknown"},
	} {
		if got := naming.Code(c.err); got != c.want {
			t.Errorf("the code of %q is %q, want %q", c.err, got, c.want)
		}
	}
}

func TestErrorsSayWhatHappened(t *testing.T) {
	bank := parse(t, "bank")
	for _, c := range []struct {
		err  error
		want string
	}{
		{&naming.Error{Op: "claim", Name: bank, Backend: "etcd", Err: naming.ErrDenied}, "etcd: claim bank: permission denied"},
		{&naming.Error{Op: "lease", Backend: "etcd", Err: naming.ErrUnavailable}, "etcd: lease: unavailable"},
		{&naming.Error{Op: "get", Name: bank, Err: naming.ErrNotFound}, "get bank: not found"},
		{&naming.TakenError{}, "name taken: the entry is gone"},
		{&naming.TakenError{Entry: naming.Entry{Revision: 7, Held: true, Value: []byte("secret")}}, "name taken: held at revision 7"},
		{&naming.TakenError{Entry: naming.Entry{Revision: 7}}, "name taken: revision 7, which no lease holds, is there"},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
	err := error(&naming.Error{Op: "claim", Err: &naming.TakenError{Entry: naming.Entry{Name: bank}}})
	if !errors.Is(err, naming.ErrTaken) || errors.Is(err, naming.ErrDenied) {
		t.Error("a TakenError is not exactly ErrTaken")
	}
	if taken, ok := errors.AsType[*naming.TakenError](err); !ok || taken.Entry.Name != bank {
		t.Error("the TakenError cannot be had out of an Error")
	}
}

func TestEventKinds(t *testing.T) {
	for kind, want := range map[naming.EventKind]string{
		naming.Put: "put", naming.Delete: "delete", naming.Synced: "synced", naming.Alive: "alive", naming.Down: "down",
		0: "unknown", 99: "unknown",
	} {
		if got := kind.String(); got != want {
			t.Errorf("kind %d is %q, want %q", kind, got, want)
		}
	}
}

// plain is a Backend that does not describe itself.
type plain struct{}

func (plain) Lease(context.Context, time.Duration) (naming.Lease, error) {
	return nil, naming.ErrDenied
}

func (plain) Get(context.Context, naming.Name) (naming.Entry, error) {
	return naming.Entry{}, naming.ErrNotFound
}

func (plain) Watch(context.Context, naming.Scope) iter.Seq2[naming.Event, error] {
	return func(func(naming.Event, error) bool) {}
}

func (plain) Close() error { return nil }

type described struct{ plain }

func (described) Describe() naming.Description {
	return naming.Description{Driver: "x", MirrorAll: true}
}

func TestDescribe(t *testing.T) {
	if got := naming.Describe(plain{}); got != (naming.Description{}) {
		t.Errorf("without a Describer: %+v, want the zero Description", got)
	}
	if got := naming.Describe(described{}); got.Driver != "x" || !got.MirrorAll {
		t.Errorf("with a Describer: %+v", got)
	}
}
