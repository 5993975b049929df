package memory_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/seed-6593ebad/skywarden/backends/memory"
	"github.com/seed-6593ebad/skywarden/naming"
)

func parse(t testing.TB, s string) naming.Name {
	t.Helper()
	name, err := naming.ParseName(s)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func scope(t testing.TB, s string) naming.Scope {
	t.Helper()
	sc, err := naming.ParseScope(s)
	if err != nil {
		t.Fatal(err)
	}
	return sc
}

func grant(t testing.TB, s *memory.Server, principal string, g memory.Grant) *memory.Backend {
	t.Helper()
	c, err := s.Grant(principal, g)
	if err != nil {
		t.Fatal(err)
	}
	return open(t, s.OpenAs(c))
}

func open(t testing.TB, b *memory.Backend) *memory.Backend {
	t.Helper()
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func lease(t testing.TB, b naming.Backend, ttl time.Duration) naming.Lease {
	t.Helper()
	l, err := b.Lease(t.Context(), ttl)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func claim(t testing.TB, l naming.Lease, name, value string) naming.Revision {
	t.Helper()
	rev, err := l.Claim(t.Context(), parse(t, name), []byte(value), 0)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func wantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	var typed *naming.Error
	switch {
	case !errors.Is(err, want):
		t.Errorf("%s: got error %v, want %v", what, err, want)
	case !errors.As(err, &typed):
		t.Errorf("%s: got %T, want a *naming.Error", what, err)
	}
}

// watcher pulls the events of a watch one by one.
type watcher struct {
	t    testing.TB
	next func() (naming.Event, error, bool)
}

func watch(t testing.TB, b naming.Backend, sc naming.Scope) *watcher {
	t.Helper()
	next, stop := iter.Pull2(b.Watch(t.Context(), sc))
	t.Cleanup(stop)
	return &watcher{t, next}
}

// want reads the next events, without Alive, and compares them with the given
// ones, written "put a=1", "delete a", "synced", "down".
func (w *watcher) want(want ...string) {
	w.t.Helper()
	for _, want := range want {
		if got := w.event(); got != want {
			w.t.Fatalf("next event: got %q, want %q", got, want)
		}
	}
}

func (w *watcher) event() string {
	for {
		ev, err, ok := w.next()
		switch {
		case !ok:
			return "end"
		case err != nil:
			return "error " + naming.Code(err)
		case ev.Kind == naming.Alive:
		case ev.Kind == naming.Put:
			return fmt.Sprintf("put %v=%s", ev.Entry.Name, ev.Entry.Value)
		case ev.Kind == naming.Delete:
			return fmt.Sprintf("delete %v", ev.Entry.Name)
		default:
			return ev.Kind.String()
		}
	}
}

func TestLeaseLivesWhileRenewedAndEndsWithItsOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s memory.Server
		owner, reader := open(t, s.Open()), open(t, s.Open())
		l := lease(t, owner, 0)
		claim(t, l, "bank", "1")
		w := watch(t, reader, scope(t, ""))
		w.want("put bank=1", "synced")

		time.Sleep(time.Hour)
		if left := time.Until(l.Deadline()); left < 3*time.Second || left > 5*time.Second {
			t.Errorf("after an hour the deadline is %v ahead, want 4 s to 5 s", left)
		}

		s.Levers().Cut(owner)
		cut := time.Now()
		deadline := l.Deadline()
		<-l.Done()
		if got := time.Now(); got.After(deadline) {
			t.Errorf("Done was closed %v after the deadline", got.Sub(deadline))
		}
		w.want("delete bank")
		if took := time.Since(cut); took > 5*time.Second {
			t.Errorf("the name of a lost owner was free after %v, want 5 s at most", took)
		}
		if got := s.Stats(); got.Leases != 0 || got.Entries != 0 {
			t.Errorf("after the lease's end there is %+v", got)
		}
		_, err := l.Claim(t.Context(), parse(t, "bank"), nil, 0)
		wantErr(t, "claim while cut", err, naming.ErrUnavailable)
		s.Levers().Heal(owner)
		_, err = l.Claim(t.Context(), parse(t, "bank"), nil, 0)
		wantErr(t, "claim on a lost lease", err, naming.ErrLeaseLost)
	})
}

func TestPauseGoesOnWithTheClockAndKillStopsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s memory.Server
		owner, reader := open(t, s.Open()), open(t, s.Open())
		claim(t, lease(t, owner, 0), "a", "1")
		w := watch(t, reader, scope(t, ""))
		w.want("put a=1", "synced")

		s.Levers().Pause()
		paused := time.Now()
		_, err := reader.Get(t.Context(), parse(t, "a"))
		wantErr(t, "get from a paused server", err, naming.ErrUnavailable)
		if took := time.Since(paused); took != 2*time.Second {
			t.Errorf("the call took %v, want 2 s", took)
		}
		w.want("down")
		time.Sleep(4 * time.Second)
		s.Levers().Resume()
		w.want("delete a", "synced")

		claim(t, lease(t, owner, 0), "b", "2")
		w.want("put b=2")
		s.Levers().Kill()
		w.want("down")
		time.Sleep(time.Minute)
		s.Levers().Restart()
		restarted := time.Now()
		w.want("synced", "delete b")
		if took := time.Since(restarted); took != 5*time.Second {
			t.Errorf("a lease lived %v after the restart, want its TTL of 5 s", took)
		}
	})
}

func TestShortPauseIsNotSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s memory.Server
		b := open(t, s.Open())
		l := lease(t, b, 0)
		w := watch(t, b, scope(t, ""))
		w.want("synced")
		s.Levers().Pause()
		time.AfterFunc(time.Second, s.Levers().Resume)
		claim(t, l, "a", "1")
		w.want("put a=1")
	})
}

func TestWatchMergesForASlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s memory.Server
		b := open(t, s.Open())
		l := lease(t, b, 0)
		w := watch(t, b, scope(t, "game."))
		w.want("synced")
		rev := claim(t, l, "game.a", "0")
		for i := range 1000 {
			var err error
			if rev, err = l.Update(t.Context(), parse(t, "game.a"), fmt.Append(nil, i), rev); err != nil {
				t.Fatal(err)
			}
		}
		claim(t, l, "game.b", "b")
		claim(t, l, "games", "not of the family")
		claim(t, l, "game.c", "never seen")
		if err := l.Release(t.Context(), parse(t, "game.c")); err != nil {
			t.Fatal(err)
		}
		claim(t, l, "game.d", "d")
		w.want("put game.a=999", "put game.b=b", "put game.d=d")
	})
}

func TestWatchIsAliveAlsoWhenNothingVisibleHappens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s memory.Server
		b := open(t, s.Open())
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			for ctx.Err() == nil { // comes and goes before anybody looks
				s.Levers().Put(parse(t, "x"), nil)
				s.Levers().Delete(parse(t, "x"))
				time.Sleep(time.Second)
			}
		}()
		last := time.Now()
		for ev, err := range b.Watch(t.Context(), naming.All()) {
			if err != nil {
				t.Fatal(err)
			}
			if silent := time.Since(last); silent > 5*time.Second {
				t.Fatalf("silent for %v before %v", silent, ev.Kind)
			}
			if last = time.Now(); ev.Kind == naming.Alive {
				break
			}
		}
		cancel()
		time.Sleep(time.Second) // the goroutine sees it
	})
}

func TestWatchLeavesNothingBehind(t *testing.T) {
	var s memory.Server
	b := open(t, s.Open())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, err := range b.Watch(ctx, naming.All()) {
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Stats(); got.Watches != 1 {
			t.Errorf("while a watch runs there is %+v", got)
		}
		break
	}
	if got := s.Stats(); got.Watches != 0 {
		t.Errorf("after a watch that was left there is %+v", got)
	}
	var last error
	for _, last = range b.Watch(ctx, naming.All()) {
		cancel()
	}
	wantErr(t, "the end of a cancelled watch", last, context.Canceled)
	if got := s.Stats(); got.Watches != 0 {
		t.Errorf("after a watch that was cancelled there is %+v", got)
	}
}

func TestPrincipals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s memory.Server
		before := open(t, s.Open())
		claim(t, lease(t, before, 0), "old", "1")
		beforeWatch := watch(t, before, naming.All())
		beforeWatch.want("put old=1", "synced")

		bank := grant(t, &s, "bank", memory.Grant{Claim: []naming.Scope{scope(t, "bank"), scope(t, "bank.")}})
		game := grant(t, &s, "game", memory.Grant{Claim: []naming.Scope{scope(t, "game.")}, Read: []naming.Scope{scope(t, "bank")}})
		nobody := grant(t, &s, "nobody", memory.Grant{})
		if who, err := bank.WhoAmI(t.Context()); who != "bank" || err != nil {
			t.Errorf("WhoAmI gave %q, %v", who, err)
		}

		claim(t, lease(t, bank, 0), "bank", "mine")
		claim(t, lease(t, bank, 0), "bank.eu", "mine")
		gl, nl := lease(t, game, 0), lease(t, nobody, 0)
		for _, name := range []string{"bank", "bank.eu", "bank.us", "game", "games.x", "other"} {
			_, err := gl.Claim(t.Context(), parse(t, name), nil, 0)
			wantErr(t, "game claims "+name, err, naming.ErrDenied)
			_, err = gl.Update(t.Context(), parse(t, name), nil, 1)
			wantErr(t, "game updates "+name, err, naming.ErrDenied)
			wantErr(t, "game releases "+name, gl.Release(t.Context(), parse(t, name)), naming.ErrDenied)
			_, err = nl.Claim(t.Context(), parse(t, name), nil, 0)
			wantErr(t, "nobody claims "+name, err, naming.ErrDenied)
		}
		for _, c := range []struct {
			who   *memory.Backend
			scope string
			want  string
		}{
			{game, "bank", "put bank=mine"},
			{game, "game.", "synced"},
			{game, "game.eu.", "synced"},
			{game, "game.eu", "synced"},
			{game, "bank.", "error denied"},
			{game, "bank.eu", "error denied"},
			{game, "games.", "error denied"},
			{game, "", "error denied"},
			{nobody, "bank", "error denied"},
			{before, "bank", "error denied"},
		} {
			if got := watch(t, c.who, scope(t, c.scope)).event(); got != c.want {
				t.Errorf("watch %q: first event %q, want %q", c.scope, got, c.want)
			}
		}
		_, err := game.Get(t.Context(), parse(t, "bank"))
		if err != nil {
			t.Error(err)
		}
		_, err = game.Get(t.Context(), parse(t, "bank.eu"))
		wantErr(t, "get outside the grant", err, naming.ErrDenied)

		// The local principal lost all rights with the first grant.
		beforeWatch.want("error denied", "end")
		_, err = before.Lease(t.Context(), 0)
		wantErr(t, "local principal opens a lease", err, naming.ErrDenied)
		if !strings.Contains(err.Error(), "OpenAs") {
			t.Errorf("the error does not say what to do: %v", err)
		}
		time.Sleep(6 * time.Second)
		if got := s.Stats(); got.Entries != 2 {
			t.Errorf("after the TTL there are %d entries, want bank's two: %+v", got.Entries, got)
		}
	})
}

func TestRevokeAndNarrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s memory.Server
		all := memory.Grant{Claim: []naming.Scope{naming.All()}}
		a, b := grant(t, &s, "a", all), grant(t, &s, "b", all)
		la, lb := lease(t, a, 0), lease(t, b, 0)
		claim(t, la, "x", "")
		claim(t, lb, "y", "")
		wa, wb := watch(t, a, scope(t, "x")), watch(t, b, scope(t, "y"))
		wa.want("put x=", "synced")
		wb.want("put y=", "synced")

		if !s.Revoke("a") || s.Revoke("a") || s.Revoke("stranger") {
			t.Error("Revoke does not tell who was known")
		}
		wa.want("error unauthenticated", "end")
		_, err := la.Claim(t.Context(), parse(t, "z"), nil, 0)
		wantErr(t, "claim after revocation", err, naming.ErrUnauthenticated)
		_, err = a.Get(t.Context(), parse(t, "x"))
		wantErr(t, "get after revocation", err, naming.ErrUnauthenticated)

		if _, err := s.Grant("b", memory.Grant{Claim: []naming.Scope{scope(t, "z")}}); err != nil {
			t.Fatal(err)
		}
		wb.want("error denied", "end")
		_, err = lb.Claim(t.Context(), parse(t, "y"), nil, 0)
		wantErr(t, "claim after narrowing", err, naming.ErrDenied)
		if _, err = lease(t, b, 0).Claim(t.Context(), parse(t, "z"), nil, 0); err != nil {
			t.Error("b lost its credential by a new grant:", err)
		}

		<-la.Done()
		<-lb.Done()
		synctest.Wait() // the server's timers are due at the same moment
		if got := s.Stats(); got.Entries != 1 {
			t.Errorf("names of ended leases are there: %+v", got)
		}

		again := grant(t, &s, "a", all)
		claim(t, lease(t, again, 0), "x", "")
		_, err = a.WhoAmI(t.Context())
		wantErr(t, "the old credential after a new grant", err, naming.ErrUnauthenticated)
	})
}

func TestForeignCredentials(t *testing.T) {
	var s, other memory.Server
	grant(t, &s, "a", memory.Grant{})
	foreign, err := other.Grant("a", memory.Grant{Claim: []naming.Scope{naming.All()}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []memory.Credential{{}, foreign} {
		b := open(t, s.OpenAs(c))
		_, err := b.Lease(t.Context(), 0)
		wantErr(t, "lease", err, naming.ErrUnauthenticated)
		_, err = b.Get(t.Context(), parse(t, "x"))
		wantErr(t, "get", err, naming.ErrUnauthenticated)
		_, err = b.WhoAmI(t.Context())
		wantErr(t, "whoami", err, naming.ErrUnauthenticated)
		if got := watch(t, b, naming.All()).event(); got != "error unauthenticated" {
			t.Errorf("watch gave %q", got)
		}
	}
}

func TestBadGrants(t *testing.T) {
	var s memory.Server
	for _, c := range []struct {
		principal string
		grant     memory.Grant
		want      error
	}{
		{"local", memory.Grant{}, naming.ErrInsecureConfig},
		{"", memory.Grant{}, naming.ErrInsecureConfig},
		{"a\nb", memory.Grant{}, naming.ErrInsecureConfig},
		{"a\xff", memory.Grant{}, naming.ErrInsecureConfig},
		{strings.Repeat("a", 129), memory.Grant{}, naming.ErrInsecureConfig},
		{"a", memory.Grant{Claim: []naming.Scope{{}}}, naming.ErrNameInvalid},
		{"a", memory.Grant{Read: []naming.Scope{naming.All(), {}}}, naming.ErrNameInvalid},
	} {
		_, err := s.Grant(c.principal, c.grant)
		wantErr(t, fmt.Sprintf("grant to %q", c.principal), err, c.want)
	}
	if err := open(t, s.Open()).Close(); err != nil {
		t.Error(err)
	}
	if _, err := open(t, s.Open()).Lease(t.Context(), 0); err != nil {
		t.Error("a refused grant took the local principal's rights:", err)
	}
}

func TestCredentialIsNeverPrinted(t *testing.T) {
	var s memory.Server
	c, err := s.Grant("a", memory.Grant{})
	if err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(map[string]any{"c": c, "p": &c})
	if err != nil {
		t.Fatal(err)
	}
	var logged strings.Builder
	slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "c", c, "p", &c)
	zl := zerolog.New(&logged)
	zl.Info().Interface("c", c).Any("p", &c).Stringer("s", c).Msg("")
	for _, got := range []string{
		fmt.Sprint(c), fmt.Sprintf("%v %+v %#v %s %q %x %d %v", c, c, c, c, c, c, c, &c), string(asJSON), logged.String(),
	} {
		if rest := strings.ReplaceAll(got, "[redacted]", ""); !strings.Contains(got, "[redacted]") || strings.ContainsAny(rest, "&(") {
			t.Errorf("printed as %s", got)
		}
	}
	// Inside somebody's unexported field fmt cannot call methods: an address is shown.
	var inside any = struct{ c memory.Credential }{c}
	for format, most := range map[string]int{"%v": 40, "%+v": 40, "%x": 40, "%d": 40, "%#v": 100} {
		if got := fmt.Sprintf(format, inside); len(got) > most {
			t.Errorf("%s prints %s", format, got)
		}
	}
}

func TestCloseWhilePaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s memory.Server
		b := s.Open()
		l := lease(t, b, 0)
		claim(t, l, "a", "")
		s.Levers().Pause()
		start := time.Now()
		wantErr(t, "close", b.Close(), naming.ErrUnavailable)
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("Close took %v", took)
		}
		<-l.Done()
		time.Sleep(5 * time.Second)
		s.Levers().Resume()
		if got := s.Stats(); got != (memory.Stats{}) {
			t.Errorf("left behind: %+v", got)
		}
	})
}

func TestLeversPutAndDelete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s memory.Server
		b := open(t, s.Open())
		l := lease(t, b, 0)
		claim(t, l, "a", "mine")
		w := watch(t, b, naming.All())
		w.want("put a=mine", "synced")
		rev := s.Levers().Put(parse(t, "a"), []byte("forged"))
		w.want("put a=forged")
		got, err := b.Get(context.Background(), parse(t, "a"))
		if err != nil || got.Held || got.Revision != rev {
			t.Errorf("got %+v, %v; want unheld at %d", got, err, rev)
		}
		if n := s.Levers().ExpireLeases(b); n != 1 {
			t.Errorf("ExpireLeases ended %d leases, want 1", n)
		}
		synctest.Wait()
		select {
		case <-l.Done():
		default:
			t.Error("the owner did not notice that its lease was ended")
		}
		claim(t, lease(t, b, 0), "a", "over what nobody holds")
		w.want("put a=over what nobody holds")
		s.Levers().Delete(parse(t, "a"))
		w.want("delete a")
	})
}

// TestCrash: the server is told nothing, so the lease lives until its TTL has
// passed, and the backend is at its end at once, also while the server is away.
func TestCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s memory.Server
		b := s.Open()
		if _, err := lease(t, b, 10*time.Second).Claim(t.Context(), parse(t, "a"), []byte("x"), 0); err != nil {
			t.Fatal(err)
		}
		watched := make(chan error)
		go func() {
			var last error
			for _, err := range b.Watch(t.Context(), naming.All()) {
				last = err
			}
			watched <- last
		}()
		time.Sleep(time.Second)
		s.Levers().Pause()
		begin := time.Now()
		s.Levers().Crash(b)
		if err := <-watched; !errors.Is(err, naming.ErrClosed) {
			t.Errorf("the watch ended with %v", err)
		}
		if _, err := b.Get(t.Context(), parse(t, "a")); !errors.Is(err, naming.ErrClosed) {
			t.Errorf("get: %v", err)
		}
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if d := time.Since(begin); d != 0 {
			t.Errorf("took %s", d)
		}
		s.Levers().Resume()
		time.Sleep(8 * time.Second)
		if got := s.Stats(); got != (memory.Stats{Entries: 1, Leases: 1}) {
			t.Errorf("within the TTL: %+v", got)
		}
		time.Sleep(2 * time.Second)
		if got := s.Stats(); got != (memory.Stats{}) {
			t.Errorf("after the TTL: %+v", got)
		}
	})
}
