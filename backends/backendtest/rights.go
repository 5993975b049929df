package backendtest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
)

// maxPermissionLag is how long a running watch may go on after its permission
// was taken.
const maxPermissionLag = 60 * time.Second

// wantCode checks the kind of err exactly: an error may be only one thing here.
func wantCode(t *testing.T, what string, err error, code string) {
	t.Helper()
	if got := naming.Code(err); got != code {
		t.Errorf("%s: got %q (%v), want %q", what, got, err, code)
	}
}

// deniedIsDenied: what is forbidden is ErrDenied, whatever is there.
func deniedIsDenied(s *suite) {
	t := s.t
	a, reader := s.open(OwnerA), s.open(Reader)
	ownB, stranger := s.open(OwnerB), s.open(Stranger)
	l := s.lease(a)
	taken, free := s.name("a."), s.name("a.")
	rev := claim(t, l, taken, "mine")
	there := held(taken, "mine", rev)

	lb := s.lease(ownB)
	for _, n := range []naming.Name{taken, free, name("shared"), name("shared-x"), name("sharedx.y"), name("b"), name("bx.y")} {
		for _, c := range writes(lb, n, rev) {
			wantCode(t, fmt.Sprintf("owner-b: %s %v", c.op, n), c.call(t.Context()), "denied")
		}
	}
	for _, sc := range append(scopes("a.", "a", "shared", "bx.", "fired."), naming.All(), naming.Only(taken), naming.Only(free)) {
		n, one := sc.Name()
		if !one {
			n = free
		}
		for _, c := range reads(ownB, n, sc) {
			wantCode(t, fmt.Sprintf("owner-b: %s %v", c.op, n), c.call(t.Context()), "denied")
		}
	}
	for _, sc := range scopes("shared.", "b.", "b.x", "shared.x.y.") {
		if err := firstError(t.Context(), ownB, sc); err != nil {
			t.Errorf("owner-b: watch %q, which it may read: %v", sc, err)
		}
	}

	for who, b := range map[Principal]*checked{Stranger: stranger, Reader: reader} {
		lease, err := b.Lease(t.Context(), s.TTL)
		if err != nil { // a server may refuse leases to who can claim nothing
			wantCode(t, fmt.Sprintf("%s: lease", who), err, "denied")
			continue
		}
		for _, n := range []naming.Name{taken, free, name("b.x"), name("shared.x"), name("unheard-of")} {
			for _, c := range writes(lease, n, rev) {
				wantCode(t, fmt.Sprintf("%s: %s %v", who, c.op, n), c.call(t.Context()), "denied")
			}
		}
		if err := lease.Close(t.Context()); err != nil {
			t.Errorf("%s: close lease: %v", who, err)
		}
	}
	for _, n := range []naming.Name{taken, free, name("b.x"), name("unheard-of")} {
		for _, sc := range append(scopes("a.", "b.", "unheard-of."), naming.All(), naming.Only(n)) {
			for _, c := range reads(stranger, n, sc) {
				wantCode(t, fmt.Sprintf("stranger: %s %v", c.op, n), c.call(t.Context()), "denied")
			}
		}
	}
	wantCode(t, "reader: get a free name", errOfGet(t.Context(), reader, free), "not_found")
	wantEntry(t, reader, there)
	wantNothing(t, reader, free)
	if _, err := l.Update(t.Context(), taken, []byte("still mine"), rev); err != nil {
		t.Errorf("the owner's update after all that: %v", err)
	}
}

func errOfGet(ctx context.Context, b naming.Backend, n naming.Name) error {
	_, err := b.Get(ctx, n)
	return err
}

// deniedAlone: claims that a driver merges fail and succeed one by one.
func deniedAlone(s *suite) {
	t := s.t
	const claims = 60
	b, reader := s.open(OwnerB), s.open(Reader)
	l := s.lease(b)
	names, errs := make([]naming.Name, claims), make([]error, claims)
	for i := range names {
		names[i] = s.name([]string{"shared.", "b.", "a."}[i%3])
	}
	forAll(claims, func(i int) { _, errs[i] = l.Claim(t.Context(), names[i], []byte("x"), 0) })
	for i, err := range errs {
		if i%3 == 2 {
			wantCode(t, fmt.Sprintf("claim %v", names[i]), err, "denied")
			wantNothing(t, reader, names[i])
			continue
		}
		if err != nil {
			t.Errorf("claim %v, beside others that are denied: %v", names[i], err)
			continue
		}
		if e, err := reader.Get(t.Context(), names[i]); err != nil || !e.Held {
			t.Errorf("get %v: held %v, %v", names[i], e.Held, err)
		}
	}
}

// wrongCredential: ErrUnauthenticated, from every call or already from Open.
func wrongCredential(s *suite) {
	t := s.t
	raw, err := s.Open(t, WrongCredential)
	if err != nil {
		wantCode(t, "open", err, "unauthenticated")
		return
	}
	b := &checked{raw, t, s.Injected}
	n := s.name("shared.")
	calls := append(reads(b, n, naming.All()), reads(b, n, naming.Only(n))...)
	calls = append(calls, call{"lease", func(ctx context.Context) error {
		l, err := b.Lease(ctx, s.TTL)
		if err != nil {
			return err
		}
		defer func() { _ = l.Close(ctx) }()
		_, err = l.Claim(ctx, n, nil, 0)
		return err
	}})
	if id, ok := raw.(naming.Identifier); ok {
		calls = append(calls, call{"whoami", func(ctx context.Context) error { _, err := id.WhoAmI(ctx); return err }})
	}
	for _, c := range calls {
		wantCode(t, c.op, c.call(t.Context()), "unauthenticated")
	}
	if err := b.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	wantNothing(t, s.open(Reader), n)
}

// revoked: from then on nothing is allowed, the lease is not renewed, and the
// watch ends.
func revoked(s *suite) {
	t := s.t
	fired, reader := s.open(Fired), s.open(Reader)
	l := s.lease(fired)
	n, free := s.name("fired."), s.name("fired.")
	rev := claim(t, l, n, "x")
	o := s.observe(fired, scopes("fired.")[0])
	o.untilThere(map[naming.Name]string{n: "x"})

	s.Revoke(t, Fired)
	start := time.Now()
	refused := func(err error) error {
		if errors.Is(err, naming.ErrDenied) || errors.Is(err, naming.ErrUnauthenticated) {
			return nil
		}
		return fmt.Errorf("got error %w, want ErrDenied or ErrUnauthenticated", orNone(err))
	}
	calls := writes(l, n, rev)[1:3] // claim over, update
	calls = append(calls, writes(l, free, 0)[0])
	for _, c := range append(calls, reads(fired, n, naming.Only(n))...) {
		eventually(t, soon, c.op+" is refused", func() error { return refused(c.call(t.Context())) })
	}
	wantDone(t, l, s.TTL+slack)
	eventually(t, s.FreeWithin, "the name is free", func() error { return isFree(t, reader, n) })
	select {
	case <-o.ended:
		if err := refused(o.err); err != nil {
			t.Errorf("the watch: %v", err)
		}
	case <-time.After(maxPermissionLag + slack - time.Since(start)):
		t.Errorf("the watch goes on %v after its permission was taken", maxPermissionLag)
	}
	wantNothing(t, reader, free)
}

func orNone(err error) error {
	if err == nil {
		return errors.New("none")
	}
	return err
}
