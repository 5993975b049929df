package consul_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/seed-6593ebad/skywarden/backends/consul"
	"github.com/seed-6593ebad/skywarden/integration/harness"
	"github.com/seed-6593ebad/skywarden/naming"
)

// via is cfg with other addresses of the same servers: proxies and recorders.
func via(cfg consul.Config, addresses ...string) consul.Config {
	cfg.Addresses = nil
	for _, address := range addresses {
		cfg.Addresses = append(cfg.Addresses, "https://"+address)
	}
	return cfg
}

// watch runs a watch and waits for what is there: a scope, or "" for all names.
func watch(t *testing.T, b naming.Backend, sc string) *harness.WatchLog {
	t.Helper()
	w := harness.Watch(t, b, scope(t, sc))
	w.Wait("synced", 1, 10*time.Second)
	return w
}

// stored is what an administrator finds under a name; nil if there is nothing.
func stored(t *testing.T, admin *api.Client, n string) *api.KVPair {
	t.Helper()
	pair, _, err := admin.KV().Get(key(n), &api.QueryOptions{RequireConsistent: true})
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// store puts a value under a name as an administrator, for nobody's session.
func store(t *testing.T, admin *api.Client, n, value string) {
	t.Helper()
	if _, err := admin.KV().Put(&api.KVPair{Key: key(n), Value: []byte(value)}, nil); err != nil {
		t.Fatal(err)
	}
}

// eventually waits until ok, which is asked every 20 ms.
func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	for begin := time.Now(); !ok(); <-time.After(20 * time.Millisecond) {
		if time.Since(begin) > within {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

// alive fails the test if one of the leases is gone.
func alive(t *testing.T, leases ...naming.Lease) {
	t.Helper()
	for i, l := range leases {
		if ended(l) {
			t.Errorf("lease %d is gone", i)
		}
	}
}

func ended(l naming.Lease) bool {
	select {
	case <-l.Done():
		return true
	default:
		return false
	}
}

// within fails the test if f takes longer than limit.
func within(t *testing.T, limit time.Duration, what string, f func()) {
	t.Helper()
	begin := time.Now()
	f()
	if took := time.Since(begin); took > limit {
		t.Errorf("%s took %v, want %v at most", what, took, limit)
	}
}

func TestS5OutageIsUnavailableWithinASecond(t *testing.T) {
	server := start(t)
	b := openAs(t, server.ConsulAccess, "alice")
	for _, outage := range []struct {
		what       string
		begin, end func(testing.TB)
	}{{"paused", server.Pause, server.Unpause}, {"killed", server.Kill, server.Start}} {
		long, err := b.Lease(t.Context(), 30*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		n := "a." + outage.what
		rev := claim(t, long, n, "1")
		claim(t, long, n+"-free", "1")
		outage.begin(t)
		for range 3 {
			within(t, time.Second, outage.what+": Get", func() {
				_, err := b.Get(t.Context(), name(t, n))
				mustBe(t, err, naming.ErrUnavailable)
			})
		}
		var calls sync.WaitGroup
		calls.Go(func() {
			within(t, 5*time.Second, outage.what+": Update", func() {
				if _, err := long.Update(t.Context(), name(t, n), []byte("2"), rev); !down(err) {
					t.Errorf("%s: Update: %v", outage.what, err)
				}
			})
		})
		calls.Go(func() {
			within(t, 5*time.Second, outage.what+": Claim", func() {
				if _, err := long.Claim(t.Context(), name(t, "a.other"), nil, 0); !down(err) {
					t.Errorf("%s: Claim: %v", outage.what, err)
				}
			})
		})
		calls.Go(func() {
			within(t, 5*time.Second, outage.what+": Release", func() {
				mustBe(t, long.Release(t.Context(), name(t, n+"-free")), naming.ErrUnavailable)
			})
		})
		calls.Go(func() {
			within(t, 5*time.Second, outage.what+": Lease", func() {
				_, err := b.Lease(t.Context(), 0)
				mustBe(t, err, naming.ErrUnavailable)
			})
		})
		calls.Wait()
		outage.end(t)
		back := time.Now()
		eventually(t, 2*time.Second+slack, outage.what+": look-ups work again", func() bool {
			_, err := b.Get(t.Context(), name(t, n))
			return err == nil || errors.Is(err, naming.ErrNotFound)
		})
		looked := time.Since(back)
		eventually(t, 2*time.Second+slack, outage.what+": claims work again", func() bool {
			l, err := b.Lease(t.Context(), 0)
			if err == nil {
				_, err = l.Claim(t.Context(), name(t, "a."+outage.what+"-after"), nil, 0)
			}
			return err == nil
		})
		t.Logf("%s: look-ups work %v after the server does, claims %v (L3: 2s)", outage.what, looked, time.Since(back))
	}
}

// down says whether err is how a write may fail during an outage: nothing was
// sent, or what was sent may still land and the lease is ended for it. The lease
// may have been ended for another write that way.
func down(err error) bool {
	return errors.Is(err, naming.ErrUnavailable) || errors.Is(err, naming.ErrOutcomeUnknown) || errors.Is(err, naming.ErrLeaseLost)
}

// L5, and that leases, watches and calls under way do not delay it.
func TestL5CloseWhileTheServerHangs(t *testing.T) {
	server := start(t)
	b := openAs(t, server.ConsulAccess, "alice")
	all, only := watch(t, b, ""), watch(t, b, "a.n0")
	for i := range 5 {
		claim(t, lease(t, b), fmt.Sprintf("a.n%d", i), "1")
	}
	l := lease(t, b)
	server.Pause(t)
	var calls sync.WaitGroup
	for i := range 5 {
		n := name(t, fmt.Sprintf("a.m%d", i))
		calls.Go(func() { _, _ = l.Claim(context.Background(), n, nil, 0) })
		calls.Go(func() { _, _ = b.Lease(context.Background(), 0) })
	}
	<-time.After(300 * time.Millisecond) // they are under way
	var err error
	within(t, 2*time.Second+slack/2, "Close", func() { err = b.Close() })
	mustBe(t, err, naming.ErrUnavailable)
	calls.Wait()
	for _, w := range []*harness.WatchLog{all, only} {
		<-w.Ended()
		mustBe(t, w.End(), naming.ErrClosed)
	}
	if again := b.Close(); !errors.Is(again, err) {
		t.Errorf("Close again: %v, want the same", again)
	}
	_, err = b.Get(t.Context(), name(t, "a.x"))
	mustBe(t, err, naming.ErrClosed)
}

// A process that starts while no server can be reached works once one can.
func TestL3StartDuringAnOutage(t *testing.T) {
	t.Parallel()
	server := start(t)
	cfg := config(t, server.ConsulAccess, "alice")
	server.Kill(t)
	b := open(t, cfg)
	seen := harness.Watch(t, b, naming.All())
	seen.Wait("down", 1, 5*time.Second)
	_, err := b.Lease(t.Context(), 0)
	mustBe(t, err, naming.ErrUnavailable)
	server.Start(t)
	back := time.Now()
	at := seen.Wait("synced", 1, 2*time.Second+slack)
	t.Logf("synced %v after the server was back (L3: 2s)", at.Sub(back))
	claim(t, lease(t, b), "a.x", "1")
}

// One of several addresses does not answer: it refuses connections, or takes
// them and hangs.
func TestL3FirstAddressDoesNotAnswer(t *testing.T) {
	server := start(t)
	cfg := config(t, server.ConsulAccess, "alice")
	for what, fault := range map[string]func(*harness.Proxy){"dead": (*harness.Proxy).Cut, "hangs": (*harness.Proxy).BlackHole} {
		t.Run(what, func(t *testing.T) {
			bad, first, other := harness.NewProxy(t, server.Address), harness.NewProxy(t, server.Address), harness.NewProxy(t, server.Address)
			fault(bad)
			var b *consul.Backend
			within(t, 2*time.Second+slack, "Open", func() { b = open(t, via(cfg, bad.Address(), first.Address(), other.Address())) })
			within(t, time.Second, "Get", func() {
				_, err := b.Get(t.Context(), name(t, "a.none"))
				mustBe(t, err, naming.ErrNotFound)
			})
			seen := watch(t, b, "")
			l := lease(t, b)
			claim(t, l, "a.x", "1")
			seen.Wait("put a.x=1 held=true", 1, 2*time.Second)
			fault(first)
			within(t, 5*time.Second, "a claim", func() { claim(t, l, "a.y", "1") })
			seen.Wait("put a.y=1 held=true", 1, 10*time.Second)
			alive(t, l)
			if err := l.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// Seen elsewhere: a heartbeat that gives up after a few failures, and one that
// is lost when a server of several hangs.
func TestPeersMistakeHeartbeatGivesUp(t *testing.T) {
	server := start(t)
	cfg := config(t, server.ConsulAccess, "alice")

	t.Run("refused connections for most of the TTL", func(t *testing.T) {
		t.Parallel()
		proxy := harness.NewProxy(t, server.Address)
		b := open(t, via(cfg, proxy.Address()))
		l, err := b.Lease(t.Context(), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		claim(t, l, "a.x", "1")
		proxy.Cut()
		<-time.After(8 * time.Second)
		proxy.Heal()
		eventually(t, 2*time.Second, "the lease is renewed", func() bool { return time.Until(l.Deadline()) > 7*time.Second })
		alive(t, l)
	})

	t.Run("one of three servers hangs", func(t *testing.T) {
		t.Parallel()
		var proxies []*harness.Proxy
		var addresses []string
		for range 3 {
			proxies = append(proxies, harness.NewProxy(t, server.Address))
			addresses = append(addresses, proxies[len(proxies)-1].Address())
		}
		b := open(t, via(cfg, addresses...))
		var leases []naming.Lease
		for i := range 8 {
			leases = append(leases, lease(t, b)) // TTL 3 s
			claim(t, leases[i], fmt.Sprintf("a.h%d", i), "1")
		}
		for _, hangs := range proxies { // whichever is in use
			hangs.BlackHole()
			begin := time.Now()
			for time.Since(begin) < 4*time.Second {
				within(t, time.Second, "Get", func() {
					if _, err := b.Get(t.Context(), name(t, "a.h1")); err != nil {
						t.Errorf("Get %v after one of three servers hangs: %v", time.Since(begin), err)
					}
				})
				<-time.After(50 * time.Millisecond)
			}
			hangs.Heal()
		}
		alive(t, leases...)
	})
}

// L3: a watch whose server falls silent without a word says so within 10 s, and
// is back within 2 s of the network's return.
func TestL3SilentWatch(t *testing.T) {
	server := start(t)
	proxy := harness.NewProxy(t, server.Address)
	b := open(t, via(config(t, server.ConsulAccess, "alice"), proxy.Address()))
	watches := []*harness.WatchLog{watch(t, b, ""), watch(t, b, "a."), watch(t, b, "a.x")}
	<-time.After(3 * time.Second) // so that a first sign of life was told
	proxy.BlackHole()
	begin := time.Now()
	for _, w := range watches {
		took := w.Wait("down", 1, 11*time.Second).Sub(begin)
		t.Logf("noticed after %v (L3: 10s)", took)
		if took > 10*time.Second {
			t.Errorf("noticed after %v", took)
		}
	}
	store(t, server.Admin, "a.x", "new")
	proxy.Heal()
	begin = time.Now()
	for _, w := range watches {
		took := w.Wait("synced", 2, 10*time.Second).Sub(begin)
		t.Logf("back after %v (L3: 2s)", took)
		if took > 2*time.Second+slack {
			t.Errorf("back after %v", took)
		}
		if got, want := w.All(), []string{"synced", "down", "put a.x=new held=false", "synced"}; !slices.Equal(got, want) {
			t.Errorf("told %q, want %q", got, want)
		}
	}
}

// The one of three servers that a watch is on falls silent: it goes to another.
func TestL3SilentServerIsLeft(t *testing.T) {
	server := start(t)
	cfg := config(t, server.ConsulAccess, "alice")
	for _, calls := range []bool{false, true} {
		t.Run(fmt.Sprintf("calls beside %v", calls), func(t *testing.T) {
			t.Parallel()
			first, second, third := harness.NewProxy(t, server.Address), harness.NewProxy(t, server.Address), harness.NewProxy(t, server.Address)
			b := open(t, via(cfg, first.Address(), second.Address(), third.Address()))
			seen := watch(t, b, "")
			if calls { // that notice it too, and go elsewhere before the watch does
				lease(t, b)
			}
			first.BlackHole()
			begin := time.Now()
			n := fmt.Sprintf("a.with-calls-%v", calls)
			store(t, server.Admin, n, "1")
			took := seen.Wait("put "+n+"=1 held=false", 1, 20*time.Second).Sub(begin)
			t.Logf("the change was seen after %v (L3: 10s)", took)
			if took > 10*time.Second {
				t.Errorf("the change was seen after %v", took)
			}
		})
	}
}

// A pause that is shorter than what is left of a lease costs nothing but time.
func TestPauseShorterThanTheTTL(t *testing.T) {
	t.Parallel()
	server := start(t)
	b := openAs(t, server.ConsulAccess, "alice")
	seen := watch(t, b, "a.x")
	l, err := b.Lease(t.Context(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	rev := claim(t, l, "a.x", "1")
	for range 3 {
		<-time.After(1100 * time.Millisecond)
		server.Pause(t)
		done := make(chan error, 1)
		go func() {
			_, err := l.Claim(context.Background(), name(t, "a.y"), []byte("2"), 0)
			done <- err
		}()
		<-time.After(2500 * time.Millisecond)
		server.Unpause(t)
		if err := <-done; err != nil {
			t.Errorf("a claim during the pause: %v", err)
		}
		if err := l.Release(t.Context(), name(t, "a.y")); err != nil {
			t.Error(err)
		}
	}
	alive(t, l)
	got, err := b.Get(t.Context(), name(t, "a.x"))
	if err != nil || got.Revision != rev {
		t.Errorf("Get: %+v, %v", got, err)
	}
	if got, want := seen.All(), []string{"synced", "put a.x=1 held=true"}; !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
}

// A prize is who believes to hold one name.
type prize struct {
	mu   sync.Mutex
	who  int
	hold naming.Lease
}

// take says who else still believes to hold it, if anybody does.
func (p *prize) take(who int, l naming.Lease) (other int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hold != nil && !ended(p.hold) && time.Now().Before(p.hold.Deadline()) {
		other = p.who
	}
	p.who, p.hold = who, l
	return other
}

func (p *prize) leave(l naming.Lease) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hold == l {
		p.hold = nil
	}
}

// A contest is one name that claimants take as fast as they can.
type contest struct {
	prize
	wins, unclear, moved atomic.Int64
}

// play claims, updates and releases until ctx ends. It fails the test if somebody
// else believes meanwhile to hold the name.
func (c *contest) play(ctx context.Context, t *testing.T, b naming.Backend, n naming.Name, me int) {
	for ctx.Err() == nil {
		l, err := b.Lease(ctx, 0)
		if err != nil {
			continue
		}
		for ctx.Err() == nil && !ended(l) {
			rev, err := l.Claim(ctx, n, fmt.Appendf(nil, "%d", me), 0)
			if errors.Is(err, naming.ErrOutcomeUnknown) {
				c.unclear.Add(1)
			}
			if err != nil {
				continue
			}
			if other := c.take(me, l); other != 0 {
				t.Errorf("%d holds the name while %d does", me, other)
			}
			c.wins.Add(1)
			<-time.After(5 * time.Millisecond)
			rev2, err := l.Update(ctx, n, fmt.Appendf(nil, "%d again", me), rev)
			var taken *naming.TakenError
			switch {
			case err == nil && rev2 <= rev:
				t.Errorf("revision %d after %d", rev2, rev)
			case errors.As(err, &taken) && strings.HasPrefix(string(taken.Entry.Value), fmt.Sprint(me)):
				c.moved.Add(1) // a claim of our own came in twice
			case errors.As(err, &taken) && !ended(l) && time.Now().Before(l.Deadline()):
				t.Errorf("%d holds the name, and it was taken: %+v", me, taken.Entry)
			}
			c.leave(l)
			_ = l.Release(ctx, n)
		}
		_ = l.Close(context.Background())
	}
}

// S1 through restarts and pauses under load: nobody may believe to hold a name
// while somebody else does, every watch ends up with what is there, and what the
// driver calls failed does not come back.
func TestS1RestartAndPauseUnderLoad(t *testing.T) {
	server := start(t)
	const claimants = 6
	n := name(t, "shared.prize")
	ctx, cancel := context.WithCancel(t.Context())
	cfgs := []consul.Config{config(t, server.ConsulAccess, "alice"), config(t, server.ConsulAccess, "bob")}
	watcher := open(t, cfgs[1])
	watches := []*harness.WatchLog{watch(t, watcher, "shared."), watch(t, watcher, "shared.prize")}
	var c contest
	var players sync.WaitGroup
	for i := range claimants {
		b := open(t, cfgs[i%2])
		players.Go(func() { c.play(ctx, t, b, n, i+1) })
	}
	for range 2 {
		<-time.After(time.Second)
		server.Kill(t)
		<-time.After(500 * time.Millisecond)
		server.Start(t)
		<-time.After(time.Second)
		server.Pause(t)
		<-time.After(2 * time.Second)
		server.Unpause(t)
	}
	<-time.After(2 * time.Second)
	cancel()
	players.Wait()
	t.Logf("%d wins, %d of unknown outcome, %d moved by a late claim of their own", c.wins.Load(), c.unclear.Load(), c.moved.Load())
	if c.wins.Load() < 50 {
		t.Errorf("only %d wins: this was no load", c.wins.Load())
	}
	// Whatever was in flight is gone or undone within twice the TTL, and the watches
	// know it.
	eventually(t, 2*ttl+5*time.Second, "the name is free", func() bool { return stored(t, server.Admin, "shared.prize") == nil })
	for _, w := range watches {
		eventually(t, 5*time.Second, "the watch knows that the name is free", func() bool {
			for _, line := range slices.Backward(w.All()) {
				if line != "synced" && line != "down" {
					return line == "delete shared.prize"
				}
			}
			return false
		})
	}
}

// Requests by what they do.
func acquires(r *http.Request) bool {
	return r.Method == http.MethodPut && r.URL.Query().Has("acquire")
}

func swaps(r *http.Request) bool    { return r.Method == http.MethodPut && r.URL.Query().Has("cas") }
func deletes(r *http.Request) bool  { return r.Method == http.MethodDelete }
func creates(r *http.Request) bool  { return r.URL.Path == "/v1/session/create" }
func destroys(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/v1/session/destroy/") }
func reads(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/v1/kv/")
}

// first says yes once, to the first request that is of the kind.
func first(kind func(*http.Request) bool) func(*http.Request) bool {
	var done atomic.Bool
	return func(r *http.Request) bool { return kind(r) && done.CompareAndSwap(false, true) }
}

// readsAfter says yes to every read from the first request of the kind on.
func readsAfter(kind func(*http.Request) bool) func(*http.Request) bool {
	var seen atomic.Bool
	return func(r *http.Request) bool {
		if kind(r) {
			seen.Store(true)
		}
		return seen.Load() && reads(r)
	}
}

// answers makes an answer for the first n requests of the kind, which the server
// never sees.
func answers(n int64, kind func(*http.Request) bool, status int, body string) func(*http.Request) (int, string, bool) {
	var count atomic.Int64
	return func(r *http.Request) (int, string, bool) { return status, body, kind(r) && count.Add(1) <= n }
}

// Answers are lost, at each step of each write. Either the outcome is right, or
// the lease is ended and the name goes with it; and nothing is left behind.
func TestS1LostAnswers(t *testing.T) {
	t.Parallel()
	server := start(t)
	cfg := config(t, server.ConsulAccess, "alice")
	const always = 1 << 40
	through := func(t *testing.T) (*harness.HTTPRecorder, *consul.Backend) {
		recorder := harness.NewHTTPRecorder(t, server.CA, server.Address)
		return recorder, open(t, via(cfg, recorder.Address()))
	}

	claims := func(t *testing.T, l naming.Lease, n string) error {
		rev, err := l.Claim(t.Context(), name(t, n), []byte("1"), 0)
		return is(t, server, n, "1", rev, err)
	}
	updates := func(t *testing.T, l naming.Lease, n string) error {
		rev, err := l.Update(t.Context(), name(t, n), []byte("2"), claim(t, l, n, "1"))
		return is(t, server, n, "2", rev, err)
	}
	replaces := func(t *testing.T, l naming.Lease, n string) error {
		store(t, server.Admin, n, "unheld")
		there := naming.Revision(stored(t, server.Admin, n).ModifyIndex)
		rev, err := l.Claim(t.Context(), name(t, n), []byte("1"), there)
		return is(t, server, n, "1", rev, err)
	}
	releases := func(t *testing.T, l naming.Lease, n string) error {
		claim(t, l, n, "1")
		err := l.Release(t.Context(), name(t, n))
		if there := stored(t, server.Admin, n); err == nil && there != nil {
			t.Errorf("released, and there is %+v", there)
		}
		return err
	}
	cases := []struct {
		what string
		lost func(*http.Request) bool                // its answer is
		fail func(*http.Request) (int, string, bool) // instead of the server
		do   func(*testing.T, naming.Lease, string) error
		want error // nil: it succeeds and the lease lives; ErrOutcomeUnknown: the lease is ended
	}{
		{"acquire once", first(acquires), nil, claims, nil},
		{"acquire always", acquires, nil, claims, naming.ErrOutcomeUnknown},
		{"acquire and the read after it once", first(readsAfter(acquires)), nil, claims, nil},
		{"reads after an acquire", readsAfter(acquires), nil, claims, naming.ErrOutcomeUnknown},
		{"cas once", first(swaps), nil, updates, nil},
		{"cas always", swaps, nil, updates, naming.ErrOutcomeUnknown},
		{"reads after a cas", readsAfter(swaps), nil, updates, naming.ErrOutcomeUnknown},
		{"delete of a replacement once", first(deletes), nil, replaces, nil},
		{"acquire of a replacement once", first(acquires), nil, replaces, nil},
		{"acquire of a replacement always", acquires, nil, replaces, naming.ErrOutcomeUnknown},
		{"delete once", first(deletes), nil, releases, nil},
		{"delete always", deletes, nil, releases, naming.ErrUnavailable},
		{"no leader for the delete", nil, answers(always, deletes, 500, "No cluster leader"), releases, naming.ErrUnavailable},
		{"no leader for a while", nil, answers(5, acquires, 500, "rpc error making call: No cluster leader"), claims, nil},
		{"no leader at all", nil, answers(always, acquires, 500, "No cluster leader"), claims, naming.ErrUnavailable},
		{"a new leader does not know the token for a while", nil, answers(5, acquires, 403, "rpc error making call: ACL not found"), claims, nil},
		{"too many requests for a while", nil, answers(5, acquires, 429, "Your IP is issuing too many concurrent connections"), claims, nil},
		{"an internal error for a while", nil, answers(5, acquires, 500, "rpc error making call: EOF"), claims, nil},
		{"an internal error always", nil, answers(always, swaps, 500, "rpc error making call: EOF"), updates, naming.ErrOutcomeUnknown},
	}
	t.Run("steps", func(t *testing.T) { // ends when all in it have
		for i, test := range cases {
			t.Run(test.what, func(t *testing.T) {
				t.Parallel()
				recorder, b := through(t)
				l, n := lease(t, b), fmt.Sprintf("a.n%d", i)
				recorder.DropResponse(test.lost)
				recorder.Fail(test.fail)
				within(t, 5*time.Second, "the call", func() {
					err := test.do(t, l, n)
					if test.want == nil && err != nil {
						t.Error(err)
					} else {
						mustBe(t, err, test.want)
					}
				})
				if unknown := errors.Is(test.want, naming.ErrOutcomeUnknown); ended(l) != unknown {
					t.Errorf("the lease is ended: %v, want %v", ended(l), unknown)
				}
				recorder.DropResponse(nil)
				recorder.Fail(nil)
				if test.want != nil {
					// With the lease, or after its next renewal.
					eventually(t, ttl/5+slack, "nothing is left under the name", func() bool { return stored(t, server.Admin, n) == nil })
					// Whoever comes next has it at once.
					next := lease(t, b)
					within(t, time.Second, "the next claim", func() { claim(t, next, n, "next") })
					if err := next.Close(t.Context()); err != nil {
						t.Error(err)
					}
				}
				if err := l.Close(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}

		t.Run("session create once", func(t *testing.T) {
			recorder, b := through(t)
			recorder.DropResponse(first(creates))
			l := lease(t, b)
			claim(t, l, "a.created", "1")
			if err := l.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
		t.Run("session destroy once", func(t *testing.T) {
			recorder, b := through(t)
			l := lease(t, b)
			claim(t, l, "a.destroyed", "1")
			recorder.DropResponse(first(destroys))
			if err := l.Close(t.Context()); err != nil {
				t.Error(err)
			}
			if there := stored(t, server.Admin, "a.destroyed"); there != nil {
				t.Errorf("closed, and there is %+v", there)
			}
		})
		t.Run("session destroy never arrives", func(t *testing.T) {
			t.Parallel()
			recorder, b := through(t)
			l := lease(t, b)
			claim(t, l, "a.undestroyed", "1")
			recorder.Fail(answers(always, destroys, 500, "No cluster leader"))
			within(t, 2*time.Second+slack/2, "Close", func() { mustBe(t, l.Close(t.Context()), naming.ErrUnavailable) })
			recorder.Fail(nil)
			eventually(t, 2*ttl+slack, "the name is free", func() bool { return stored(t, server.Admin, "a.undestroyed") == nil })
		})
	})
	eventually(t, 2*ttl+2*slack, "no session is left", func() bool {
		sessions, _, err := server.Admin.Session().Node(node("alice"), &api.QueryOptions{RequireConsistent: true})
		return err == nil && len(sessions) == 0
	})
	if keys, _, err := server.Admin.KV().Keys(root+"/", "", nil); err != nil || len(keys) != 0 {
		t.Errorf("left: %q, %v", keys, err)
	}
}

// is checks that after a write that succeeded the server has just that.
func is(t *testing.T, server *harness.Consul, n, value string, rev naming.Revision, err error) error {
	t.Helper()
	if there := stored(t, server.Admin, n); err == nil && (there == nil || string(there.Value) != value || there.Session == "" || there.ModifyIndex != uint64(rev)) {
		t.Errorf("%q is at revision %d, and there is %+v", value, rev, there)
	}
	return err
}

// The first try of a claim is stuck on the way, the second succeeds by another
// way. Then the first arrives after all.
func TestS1LateClaim(t *testing.T) {
	t.Parallel()
	server := start(t)
	slow := harness.NewHTTPRecorder(t, server.CA, server.Address)
	cfg := via(config(t, server.ConsulAccess, "alice"), slow.Address(), server.Address)
	for _, test := range []struct {
		what string
		do   func(t *testing.T, b naming.Backend, l naming.Lease, n naming.Name, rev naming.Revision, late func()) // late delivers the first try
	}{
		{"after the name was released", func(t *testing.T, _ naming.Backend, l naming.Lease, n naming.Name, _ naming.Revision, late func()) {
			if err := l.Release(t.Context(), n); err != nil {
				t.Fatal(err)
			}
			late()
			if there := stored(t, server.Admin, n.String()); there == nil {
				t.Fatal("it did not take effect: this test tests nothing")
			}
			// The driver looks after each renewal, which is every fifth of the TTL.
			eventually(t, ttl/5+slack, "the late claim is gone", func() bool { return stored(t, server.Admin, n.String()) == nil })
		}},
		{"after the name was claimed again", func(t *testing.T, _ naming.Backend, l naming.Lease, n naming.Name, _ naming.Revision, late func()) {
			if err := l.Release(t.Context(), n); err != nil {
				t.Fatal(err)
			}
			late()
			rev := claim(t, l, n.String(), "2")
			_ = is(t, server, n.String(), "2", rev, nil)
			<-time.After(ttl/5 + slack) // several renewals
			_ = is(t, server, n.String(), "2", rev, nil)
		}},
		// An acquire by the session that has the lock writes without a question.
		{"after an update", func(t *testing.T, b naming.Backend, l naming.Lease, n naming.Name, rev naming.Revision, late func()) {
			rev, err := l.Update(t.Context(), n, []byte("2"), rev)
			if err != nil {
				t.Fatal(err)
			}
			seen := watch(t, b, n.String())
			late()
			seen.Wait("put "+n.String()+"=1 held=true", 1, 2*time.Second) // the owner sees it
			_, err = l.Update(t.Context(), n, []byte("3"), rev)
			mustBe(t, err, naming.ErrTaken)
			var taken *naming.TakenError
			if !errors.As(err, &taken) || string(taken.Entry.Value) != "1" || !taken.Entry.Held {
				t.Fatalf("Update: %v, want the entry that is there", err)
			}
			rev, err = l.Update(t.Context(), n, []byte("3"), taken.Entry.Revision)
			_ = is(t, server, n.String(), "3", rev, err)
			if err != nil {
				t.Errorf("an update of what the lease holds, at the revision that it has: %v", err)
			}
		}},
	} {
		t.Run(test.what, func(t *testing.T) {
			b := open(t, cfg) // begins with its first address
			l, n := lease(t, b), "a."+strings.ReplaceAll(test.what, " ", "-")
			stuck, held := make(chan *http.Request, 1), first(acquires)
			slow.Fail(func(r *http.Request) (int, string, bool) {
				if !held(r) {
					return 0, "", false
				}
				<-r.Context().Done() // the client has given up
				stuck <- r
				return http.StatusGatewayTimeout, "", true
			})
			defer slow.Fail(nil)
			rev := claim(t, l, n, "1")
			late := <-stuck
			test.do(t, b, l, name(t, n), rev, func() { deliver(t, server, late, "1") })
			alive(t, l)
			if err := l.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// deliver sends a request to the server that has not arrived yet.
func deliver(t *testing.T, server *harness.Consul, r *http.Request, body string) {
	t.Helper()
	again, err := http.NewRequestWithContext(t.Context(), r.Method, "https://"+server.Address+r.URL.RequestURI(), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	again.Header = r.Header.Clone()
	transport := &http.Transport{TLSClientConfig: server.ClientTLS(t)}
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(again)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Fatalf("the late request: %s", response.Status)
	}
}

// After a session has ended nobody may have its names until its lock delay is
// over: a millisecond if it was ours, 15 s if it was made by somebody who left it
// to Consul.
func TestLockDelay(t *testing.T) {
	t.Parallel()
	server := start(t)
	recorder := harness.NewHTTPRecorder(t, server.CA, server.Address)
	alice := openAs(t, server.ConsulAccess, "alice")
	bob := open(t, via(config(t, server.ConsulAccess, "bob"), recorder.Address()))
	l := lease(t, bob)

	var slowest time.Duration
	for range 20 {
		owner := lease(t, alice)
		claim(t, owner, "shared.x", "1")
		if err := owner.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		claim(t, l, "shared.x", "2")
		slowest = max(slowest, time.Since(begin))
		if err := l.Release(t.Context(), name(t, "shared.x")); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("claimed %v after its owner has left, at most", slowest)
	if slowest > slack/2 {
		t.Errorf("a claim after the owner has left took %v", slowest)
	}

	id, _, err := server.Admin.Session().CreateNoChecks(&api.SessionEntry{Node: node("alice"), TTL: "30s", Behavior: api.SessionBehaviorDelete}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if done, _, err := server.Admin.KV().Acquire(&api.KVPair{Key: key("shared.y"), Session: id}, nil); !done {
		t.Fatal(err)
	}
	if _, err := server.Admin.Session().Destroy(id, nil); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	recorder.Forget()
	within(t, 5*time.Second, "a claim held back by a lock delay", func() {
		_, err := l.Claim(t.Context(), name(t, "shared.y"), nil, 0)
		mustBe(t, err, naming.ErrUnavailable)
		t.Logf("after %v: %v", time.Since(begin).Round(time.Millisecond), err)
		if err != nil && !strings.Contains(err.Error(), "lock delay") {
			t.Errorf("the error does not say why: %v", err)
		}
	})
	if sent := len(recorder.Requests()); sent > 200 {
		t.Errorf("%d requests to be told to wait", sent)
	} else {
		t.Logf("%d requests", sent)
	}
	alive(t, l)
	eventually(t, 16*time.Second, "the name is free after the lock delay", func() bool {
		_, err := l.Claim(t.Context(), name(t, "shared.y"), nil, 0)
		return err == nil
	})
	t.Logf("claimed after %v", time.Since(begin).Round(time.Millisecond))
}

// Seen elsewhere: the departure of the last instance is never told, because an
// empty list looks like none.
func TestPeersMistakeLastOneLeaves(t *testing.T) {
	t.Parallel()
	server := start(t)
	proxy := harness.NewProxy(t, server.Address)
	b := open(t, via(config(t, server.ConsulAccess, "bob"), proxy.Address()))
	owner := lease(t, openAs(t, server.ConsulAccess, "alice"))
	claim(t, owner, "a.only", "1")
	watches := []*harness.WatchLog{watch(t, b, ""), watch(t, b, "a."), watch(t, b, "a.only")}
	proxy.Cut()
	for _, w := range watches {
		w.Wait("down", 1, 6*time.Second)
	}
	if err := owner.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	proxy.Heal()
	for _, w := range watches {
		w.Wait("delete a.only", 1, 5*time.Second)
	}
}

// Seen elsewhere: one's own DELETE and the PUT after it are taken for one's own
// and skipped, and the first lease leaks.
func TestPeersMistakeRejoin(t *testing.T) {
	t.Parallel()
	server := start(t)
	b := openAs(t, server.ConsulAccess, "alice")
	watches := []*harness.WatchLog{watch(t, b, "a.x"), watch(t, b, "a.")}
	for i := 1; i <= 3; i++ {
		l := lease(t, b)
		claim(t, l, "a.x", "me")
		for _, w := range watches {
			w.Wait("put a.x=me held=true", i, 3*time.Second)
		}
		if err := l.Close(t.Context()); err != nil {
			t.Error(err)
		}
		for _, w := range watches {
			w.Wait("delete a.x", i, 3*time.Second)
		}
	}
	sessions, _, err := server.Admin.Session().Node(node("alice"), nil)
	if err != nil || len(sessions) != 0 {
		t.Errorf("left: %v, %v", sessions, err)
	}
}

// A thousand watches that begin at once share a few connections: a server takes
// 200 of one host, and then locks it out.
func TestManyWatches(t *testing.T) {
	server := start(t)
	road := newRoad(t, server.Address)
	b := open(t, via(config(t, server.ConsulAccess, "alice"), road.address()))
	const watches = 1000
	var all []*harness.WatchLog
	begin := time.Now()
	for i := range watches {
		all = append(all, harness.Watch(t, b, scope(t, fmt.Sprintf("a.n%d", i))))
	}
	for _, w := range all {
		w.Wait("synced", 1, 20*time.Second)
	}
	open, most := road.count()
	t.Logf("%d watches in %v, on %d connections, %d at most", watches, time.Since(begin), open, most)
	if most > 40 {
		t.Errorf("%d connections, 40 at most are fine", most)
	}
	begin = time.Now()
	for i := range watches {
		store(t, server.Admin, fmt.Sprintf("a.n%d", i), "1")
	}
	for i, w := range all {
		w.Wait(fmt.Sprintf("put a.n%d=1 held=false", i), 1, 5*time.Second)
	}
	t.Logf("a change of each in %v", time.Since(begin))
	// An outage: all of them come back at once.
	road.lead(nowhere)
	for _, w := range all {
		w.Wait("down", 1, 10*time.Second)
	}
	road.lead(server.Address)
	begin = time.Now()
	for _, w := range all {
		w.Wait("synced", 2, 10*time.Second)
	}
	open, most = road.count()
	t.Logf("all are back after %v, on %d connections, %d at most", time.Since(begin), open, most)
	if took := time.Since(begin); took > 2*time.Second+2*slack {
		t.Errorf("all are back after %v (L3: 2s)", took)
	}
	if most > 40 {
		t.Errorf("%d connections, 40 at most are fine", most)
	}
	if _, err := server.Admin.KV().DeleteTree(key("a.")+"/", nil); err != nil {
		t.Fatal(err)
	}
	for i, w := range all {
		w.Wait(fmt.Sprintf("delete a.n%d", i), 1, 5*time.Second)
		if downs := strings.Count(strings.Join(w.All(), "\n"), "down"); downs != 1 {
			t.Fatalf("watch %d was told %q", i, w.All())
		}
	}
}

// Something between us and the server that does not speak HTTP/2 would need a
// connection for each watch.
func TestServerWithoutHTTP2IsRefused(t *testing.T) {
	server := start(t)
	cert := server.CA.Server(t, "127.0.0.1").TLS()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS13})
	if err != nil {
		t.Fatal(err)
	}
	between := http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Second}
	var serving sync.WaitGroup
	serving.Go(func() { _ = between.Serve(listener) }) // ends with Close
	defer serving.Wait()
	defer between.Close()
	b := open(t, via(config(t, server.ConsulAccess, "alice"), listener.Addr().String()))
	_, err = b.Get(t.Context(), name(t, "a.x"))
	mustBe(t, err, naming.ErrUnavailable)
	if err == nil || !strings.Contains(err.Error(), "HTTP/2") {
		t.Errorf("Get: %v, want to hear of HTTP/2", err)
	}
}
