package etcd_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/seed-6593ebad/skywarden/backends/etcd"
	"github.com/seed-6593ebad/skywarden/integration/harness"
	"github.com/seed-6593ebad/skywarden/naming"
)

// alive fails the test if the lease is gone.
func alive(t *testing.T, leases ...naming.Lease) {
	t.Helper()
	for i, l := range leases {
		select {
		case <-l.Done():
			t.Errorf("lease %d is gone", i)
		default:
		}
	}
}

func TestS5OutageIsUnavailableWithinASecond(t *testing.T) {
	server := start(t)
	b := openAs(t, server, "alice")
	held := name(t, "a.x")
	claim(t, lease(t, b), "a.x", "1")
	for what, levers := range map[string][2]func(testing.TB){
		"paused": {server.Pause, server.Unpause},
		"killed": {server.Kill, server.Start},
	} {
		levers[0](t)
		for range 5 {
			begin := time.Now()
			_, err := b.Get(t.Context(), held)
			mustBe(t, err, naming.ErrUnavailable)
			if took := time.Since(begin); took > time.Second {
				t.Errorf("%s: Get took %v to know of it", what, took)
			}
		}
		levers[1](t)
		begin := time.Now()
		eventually(t, 2*time.Second+slack, func() bool {
			_, err := b.Get(t.Context(), held)
			return err == nil || errors.Is(err, naming.ErrNotFound)
		})
		t.Logf("%s: look-ups work %v after the server does (L3: 2s)", what, time.Since(begin))
	}
}

// L5, and that leases, watches and calls under way do not delay it.
func TestL5CloseWhileTheServerHangs(t *testing.T) {
	server := start(t)
	b := openAs(t, server, "alice")
	seen := record(t, b, "")
	seen.Wait("synced", 1, 5*time.Second)
	for i := range 5 {
		claim(t, lease(t, b), fmt.Sprintf("a.n%d", i), "1")
	}
	l := lease(t, b)
	server.Pause(t)
	var wg sync.WaitGroup
	for i := range 5 {
		n := name(t, fmt.Sprintf("a.m%d", i))
		wg.Go(func() { _, _ = l.Claim(context.Background(), n, nil, 0) })
	}
	begin := time.Now()
	err := b.Close()
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("Close took %v", took)
	}
	mustBe(t, err, naming.ErrUnavailable)
	wg.Wait()
	<-seen.Ended()
	mustBe(t, seen.End(), naming.ErrClosed)
	if again := b.Close(); !errors.Is(again, err) {
		t.Errorf("Close again: %v, want the same", again)
	}
	_, err = b.Get(t.Context(), name(t, "a.x"))
	mustBe(t, err, naming.ErrClosed)
}

// A process that starts while no server can be reached works once one can.
func TestL3StartDuringAnOutage(t *testing.T) {
	server := start(t)
	server.Kill(t)
	b := openAs(t, server, "alice")
	seen := record(t, b, "")
	seen.Wait("down", 1, 5*time.Second)
	_, err := b.Lease(t.Context(), 0)
	mustBe(t, err, naming.ErrUnavailable)
	server.Start(t)
	back := time.Now()
	at := seen.Wait("synced", 1, 2*time.Second+slack)
	t.Logf("synced %v after the server was back (L3: 2s)", at.Sub(back))
	claim(t, lease(t, b), "a.x", "1")
}

// Seen elsewhere: a heartbeat that gives up after a few failures, and one that
// is lost when a server of several hangs.
func TestPeersMistakeHeartbeatGivesUp(t *testing.T) {
	server := start(t)

	t.Run("refused connections for most of the TTL", func(t *testing.T) {
		proxy := harness.NewProxy(t, server.Address)
		b := open(t, through(config(t, server, "alice"), proxy))
		l, err := b.Lease(t.Context(), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		claim(t, l, "a.x", "1")
		<-time.After(2 * time.Second)
		proxy.Cut()
		<-time.After(6500 * time.Millisecond)
		proxy.Heal()
		<-time.After(3 * time.Second)
		alive(t, l)
		if left := time.Until(l.Deadline()); left < 6*time.Second {
			t.Errorf("the lease is not renewed: %v left", left)
		}
	})

	t.Run("one of three servers hangs", func(t *testing.T) {
		var proxies []*harness.Proxy
		for range 3 {
			proxies = append(proxies, harness.NewProxy(t, server.Address))
		}
		b := open(t, through(config(t, server, "alice"), proxies...))
		var leases []naming.Lease
		for i := range 8 {
			leases = append(leases, lease(t, b)) // TTL 5 s
			claim(t, leases[i], fmt.Sprintf("a.h%d", i), "1")
		}
		proxies[1].BlackHole()
		begin := time.Now()
		for time.Since(begin) < 20*time.Second {
			at := time.Now()
			_, err := b.Get(t.Context(), name(t, "a.h1"))
			// Until the server is known to hang, all three tries of a call may meet it.
			if time.Since(at) > time.Second || err != nil && (at.Sub(begin) > 3*time.Second || !errors.Is(err, naming.ErrUnavailable)) {
				t.Errorf("Get after %v: %v", time.Since(at), err)
			}
			<-time.After(100 * time.Millisecond)
		}
		alive(t, leases...)
	})
}

func TestFirstEndpointIsDead(t *testing.T) {
	server := start(t)
	dead, first, other := harness.NewProxy(t, server.Address), harness.NewProxy(t, server.Address), harness.NewProxy(t, server.Address)
	dead.Cut()
	b := open(t, through(config(t, server, "alice"), dead, first, other))
	seen := record(t, b, "")
	seen.Wait("synced", 1, 5*time.Second)
	l := lease(t, b)
	claim(t, l, "a.x", "1")
	seen.Wait("put a.x=1 held=true", 1, time.Second)
	first.Cut()
	claim(t, l, "a.y", "1")
	seen.Wait("put a.y=1 held=true", 1, 5*time.Second)
	alive(t, l)
}

// A server to which nobody writes is no server that hangs: etcd does not answer a
// progress request while a watch of the stream begins at a revision that the
// store has not reached.
func TestWatchOfAQuietServer(t *testing.T) {
	server := start(t)
	b := openAs(t, server, "alice")
	if _, err := server.Admin.Put(t.Context(), key("a.x"), "1"); err != nil {
		t.Fatal(err)
	}
	seen := record(t, b, "")
	seen.Wait("synced", 1, 5*time.Second)
	var last time.Time
	for i := range 5 {
		at := seen.Wait("alive", i+1, 6*time.Second)
		if !last.IsZero() && at.Sub(last) > 5*time.Second {
			t.Errorf("%v between two signs of life", at.Sub(last))
		}
		last = at
	}
	if got := seen.All(); len(got) != 2 {
		t.Errorf("told %q", got)
	}
}

// L3: a watch whose server falls silent without a word says so within 10 s, and
// is back within 2 s of the network's return.
func TestL3SilentWatch(t *testing.T) {
	server := start(t)
	proxy := harness.NewProxy(t, server.Address)
	b := open(t, through(config(t, server, "alice"), proxy))
	all, only := record(t, b, ""), record(t, b, "a.x")
	all.Wait("synced", 1, 5*time.Second)
	only.Wait("synced", 1, 5*time.Second)
	proxy.BlackHole()
	begin := time.Now()
	for _, r := range []*harness.WatchLog{all, only} {
		at := r.Wait("down", 1, 11*time.Second)
		t.Logf("noticed after %v (L3: 10s)", at.Sub(begin))
		if at.Sub(begin) > 10*time.Second {
			t.Errorf("noticed after %v", at.Sub(begin))
		}
	}
	if _, err := server.Admin.Put(t.Context(), key("a.x"), "new"); err != nil {
		t.Fatal(err)
	}
	proxy.Heal()
	begin = time.Now()
	for _, r := range []*harness.WatchLog{all, only} {
		at := r.Wait("synced", 2, 10*time.Second)
		t.Logf("back after %v (L3: 2s)", at.Sub(begin))
		if at.Sub(begin) > 2*time.Second+slack {
			t.Errorf("back after %v", at.Sub(begin))
		}
		if got, want := r.All(), []string{"synced", "down", "put a.x=new held=false", "synced"}; !slices.Equal(got, want) {
			t.Errorf("told %q, want %q", got, want)
		}
	}
}

// The one of three servers that a watch is on falls silent: it goes to another.
func TestL3SilentServerIsLeft(t *testing.T) {
	server := start(t)
	var proxies []*harness.Proxy
	for range 3 {
		proxies = append(proxies, harness.NewProxy(t, server.Address))
	}
	for _, calls := range []bool{false, true} {
		proxies[0].Heal()
		proxies[1].Cut()
		proxies[2].Cut()
		b := open(t, through(config(t, server, "alice"), proxies...))
		seen := record(t, b, "")
		seen.Wait("synced", 1, 5*time.Second)
		if calls { // that notice it too
			lease(t, b)
			lease(t, b)
		}
		proxies[1].Heal()
		proxies[2].Heal()
		<-time.After(2 * time.Second) // connected again
		proxies[0].BlackHole()
		begin := time.Now()
		n := fmt.Sprintf("a.with-calls-%v", calls)
		if _, err := server.Admin.Put(t.Context(), key(n), "1"); err != nil {
			t.Fatal(err)
		}
		at := seen.Wait("put "+n+"=1 held=false", 1, 20*time.Second)
		t.Logf("calls beside: %v: the change was seen after %v (L3: 10s)", calls, at.Sub(begin))
		if at.Sub(begin) > 10*time.Second {
			t.Errorf("the change was seen after %v", at.Sub(begin))
		}
		b.Close()
	}
}

// A pause that is shorter than what is left of a lease costs nothing but time.
func TestPauseShorterThanTheTTL(t *testing.T) {
	server := start(t)
	b := openAs(t, server, "alice")
	seen := record(t, b, "")
	seen.Wait("synced", 1, 5*time.Second)
	l := lease(t, b)
	rev := claim(t, l, "a.x", "1")
	for range 3 {
		<-time.After(1500 * time.Millisecond)
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
	for _, line := range seen.All() {
		if line == "down" || line == "delete a.x" {
			t.Errorf("told: %q", seen.All())
		}
	}
}

// S1 through restarts and pauses under load: claimants take one name from each
// other as fast as they can. Nobody may believe to hold it while somebody else
// does, every watch ends up with what is there, and what the driver calls failed
// does not come back.
func TestS1RestartAndPauseUnderLoad(t *testing.T) {
	server := start(t)
	const claimants = 6
	n := name(t, "shared.prize")
	var holder atomic.Int64 // the claimant who holds it, by his own belief
	var wins, unclear atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	watcher := openAs(t, server, "bob")
	seen := record(t, watcher, "shared.")
	seen.Wait("synced", 1, 5*time.Second)
	for i := range int64(claimants) {
		b := openAs(t, server, []string{"alice", "bob"}[i%2])
		wg.Go(func() {
			me := i + 1
			for ctx.Err() == nil {
				l, err := b.Lease(ctx, 3*time.Second)
				if err != nil {
					continue
				}
				for ctx.Err() == nil {
					select {
					case <-l.Done():
					default:
					}
					rev, err := l.Claim(ctx, n, fmt.Appendf(nil, "%d", me), 0)
					if errors.Is(err, naming.ErrOutcomeUnknown) {
						unclear.Add(1)
					}
					if errors.Is(err, naming.ErrLeaseLost) || errors.Is(err, naming.ErrOutcomeUnknown) || errors.Is(err, naming.ErrClosed) {
						break
					}
					if err != nil {
						continue
					}
					// Until the deadline the name is ours alone.
					if time.Now().Before(l.Deadline()) {
						if other := holder.Swap(me); other != 0 {
							t.Errorf("%d holds the name while %d does", me, other)
						}
						wins.Add(1)
						<-time.After(5 * time.Millisecond)
						if rev2, err := l.Update(ctx, n, fmt.Appendf(nil, "%d again", me), rev); err == nil && rev2 <= rev {
							t.Errorf("revision %d after %d", rev2, rev)
						}
						if !time.Now().Before(l.Deadline()) {
							holder.CompareAndSwap(me, 0) // too late to say anything
							break
						}
						holder.CompareAndSwap(me, 0)
					}
					_ = l.Release(ctx, n)
				}
				_ = l.Close(context.Background())
			}
		})
	}
	for range 3 {
		<-time.After(2 * time.Second)
		server.Kill(t)
		<-time.After(500 * time.Millisecond)
		server.Start(t)
		<-time.After(2 * time.Second)
		server.Pause(t)
		<-time.After(2 * time.Second)
		server.Unpause(t)
	}
	<-time.After(2 * time.Second)
	cancel()
	wg.Wait()
	t.Logf("%d wins, %d of unknown outcome", wins.Load(), unclear.Load())
	if wins.Load() < 50 {
		t.Errorf("only %d wins: this was no load", wins.Load())
	}
	// Whatever was in flight is gone or undone within a TTL, and the watch knows it.
	eventually(t, 10*time.Second, func() bool { return len(get(t, server.Admin, "shared.prize").Kvs) == 0 })
	eventually(t, 5*time.Second, func() bool {
		lines := seen.All()
		for _, line := range slices.Backward(lines) {
			if line != "synced" && line != "down" {
				return line == "delete shared.prize"
			}
		}
		return false
	})
}

// The answer to a claim is lost, and the claim arrives after the network heals.
func TestAmbiguousClaim(t *testing.T) {
	server := start(t)

	t.Run("healed in time", func(t *testing.T) {
		proxy := harness.NewProxy(t, server.Address)
		b := open(t, through(config(t, server, "alice"), proxy))
		l := lease(t, b)
		proxy.BlackHole()
		time.AfterFunc(2*time.Second, proxy.Heal)
		rev := claim(t, l, "a.x", "1")
		resp := get(t, server.Admin, "a.x")
		if len(resp.Kvs) != 1 || resp.Kvs[0].ModRevision != int64(rev) {
			t.Fatalf("claimed at revision %d, and there is %v", rev, resp.Kvs)
		}
		alive(t, l)
		if err := l.Release(t.Context(), name(t, "a.x")); err != nil {
			t.Fatal(err)
		}
		stays(t, server, "a.x", false, 4*time.Second)
		alive(t, l)
	})

	t.Run("update healed in time", func(t *testing.T) {
		proxy := harness.NewProxy(t, server.Address)
		b := open(t, through(config(t, server, "alice"), proxy))
		l := lease(t, b)
		rev := claim(t, l, "a.u", "1")
		proxy.BlackHole()
		time.AfterFunc(2*time.Second, proxy.Heal)
		rev, err := l.Update(t.Context(), name(t, "a.u"), []byte("2"), rev)
		resp := get(t, server.Admin, "a.u")
		if err != nil || string(resp.Kvs[0].Value) != "2" || resp.Kvs[0].ModRevision != int64(rev) {
			t.Errorf("Update: revision %d, %v; there is %v", rev, err, resp.Kvs)
		}
		alive(t, l)
	})

	t.Run("healed too late", func(t *testing.T) {
		proxy := harness.NewProxy(t, server.Address)
		b := open(t, through(config(t, server, "alice"), proxy))
		l, err := b.Lease(t.Context(), 20*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		claim(t, l, "a.other", "1")
		proxy.BlackHole()
		begin := time.Now()
		_, err = l.Claim(t.Context(), name(t, "a.late"), []byte("1"), 0)
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("the claim took %v", took)
		}
		mustBe(t, err, naming.ErrOutcomeUnknown)
		select {
		case <-l.Done():
		default:
			t.Error("Done is not closed before the outcome is reported as unknown")
		}
		_, err = l.Claim(t.Context(), name(t, "a.other2"), nil, 0)
		mustBe(t, err, naming.ErrLeaseLost)
		proxy.Heal()
		// The lease is ended as soon as the server can be reached: long before its TTL.
		eventually(t, 6*time.Second, func() bool {
			return len(get(t, server.Admin, "a.late").Kvs) == 0 && len(get(t, server.Admin, "a.other").Kvs) == 0
		})
		stays(t, server, "a.late", false, 2*time.Second)
	})

	// The first try is stuck on the way to one server, the second succeeds by
	// another, the name is released: then the first one arrives, finds the name free
	// and the lease alive, and takes it for nobody.
	t.Run("the first try arrives after all", func(t *testing.T) {
		slow, good := harness.NewProxy(t, server.Address), harness.NewProxy(t, server.Address)
		good.Cut()
		// With a client of our own the connection would be cut, and the try with it.
		client, err := clientv3.New(clientv3.Config{
			Endpoints: []string{"https://" + slow.Address(), "https://" + good.Address()},
			TLS:       server.ClientTLS(t, "alice"), Logger: zap.NewNop(),
			DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
				Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1, MaxDelay: 100 * time.Millisecond}, MinConnectTimeout: time.Second,
			})},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		b := open(t, etcd.Config{Client: client, Principal: "alice"})
		l, err := b.Lease(t.Context(), 30*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		<-time.After(500 * time.Millisecond) // nothing is under way any more
		// On a busy machine the word that the try was given up may overtake its
		// execution: then there is no ghost, and the scene is played again.
		appeared := func() bool {
			slow.Slow(7 * time.Second) // each piece: the try, and after it that it was given up
			defer slow.Heal()
			good.Cut()
			time.AfterFunc(500*time.Millisecond, good.Heal)
			claim(t, l, "a.ghost", "1")
			if err := l.Release(t.Context(), name(t, "a.ghost")); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			for resp := range server.Admin.Watch(ctx, key("a.ghost")) {
				if len(resp.Events) > 0 {
					return resp.Events[0].IsCreate()
				}
			}
			return false
		}
		for try := 1; !appeared(); try++ {
			if try == 4 {
				t.Fatal("in 4 tries no first try arrived late: this test tests nothing")
			}
		}
		// The driver looks after each renewal, which is every fifth of the TTL.
		eventually(t, 6*time.Second+slack, func() bool { return len(get(t, server.Admin, "a.ghost").Kvs) == 0 })
		alive(t, l)
	})

	t.Run("nothing was sent", func(t *testing.T) {
		proxy := harness.NewProxy(t, server.Address)
		b := open(t, through(config(t, server, "alice"), proxy))
		l, err := b.Lease(t.Context(), 20*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		claim(t, l, "a.kept", "1")
		proxy.Cut()
		eventually(t, 5*time.Second, func() bool {
			_, err := b.Get(t.Context(), name(t, "a.kept"))
			return errors.Is(err, naming.ErrUnavailable)
		})
		_, err = l.Claim(t.Context(), name(t, "a.not"), nil, 0)
		mustBe(t, err, naming.ErrUnavailable)
		if errors.Is(err, naming.ErrOutcomeUnknown) {
			t.Errorf("a claim that was never sent: %v", err)
		}
		alive(t, l)
		proxy.Heal()
		claim(t, l, "a.not", "1")
	})
}

// stays checks again and again that a name is there, or not.
func stays(t *testing.T, server *harness.Etcd, n string, there bool, d time.Duration) {
	t.Helper()
	for begin := time.Now(); time.Since(begin) < d; <-time.After(50 * time.Millisecond) {
		if got := len(get(t, server.Admin, n).Kvs) > 0; got != there {
			t.Fatalf("%s is there: %v, want %v", n, got, there)
		}
	}
}

// A gap in which the history is compacted away, and all kinds of changes happen.
func TestWatchAfterCompaction(t *testing.T) {
	server := start(t)
	proxy := harness.NewProxy(t, server.Address)
	b := open(t, through(config(t, server, "alice"), proxy))
	put := func(n, value string) int64 {
		resp, err := server.Admin.Put(t.Context(), key(n), value)
		if err != nil {
			t.Fatal(err)
		}
		return resp.Header.Revision
	}
	del := func(n string) {
		if _, err := server.Admin.Delete(t.Context(), key(n)); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []string{"a.same", "a.changed", "a.deleted", "a.back"} {
		put(n, "1")
	}
	seen := record(t, b, "a.")
	seen.Wait("synced", 1, 5*time.Second)
	before := len(seen.All())
	proxy.Cut()
	seen.Wait("down", 1, 5*time.Second)
	put("a.changed", "2")
	put("a.changed", "3")
	del("a.deleted")
	del("a.back")
	put("a.back", "1")
	put("a.never", "1")
	del("a.never")
	rev := put("a.new", "1")
	if _, err := server.Admin.Compact(t.Context(), rev); err != nil {
		t.Fatal(err)
	}
	proxy.Heal()
	seen.Wait("synced", 2, 5*time.Second)
	got := seen.All()[before+1:]
	slices.Sort(got)
	want := []string{"delete a.deleted", "put a.back=1 held=false", "put a.changed=3 held=false", "put a.new=1 held=false", "synced"}
	if !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
}

// Seen elsewhere: the departure of the last instance is never told, because an
// empty list looks like none.
func TestPeersMistakeLastOneLeaves(t *testing.T) {
	server := start(t)
	proxy := harness.NewProxy(t, server.Address)
	b := open(t, through(config(t, server, "bob"), proxy))
	owner := lease(t, openAs(t, server, "alice"))
	claim(t, owner, "a.only", "1")
	seen := record(t, b, "a.")
	seen.Wait("synced", 1, 5*time.Second)
	proxy.Cut()
	seen.Wait("down", 1, 5*time.Second)
	if err := owner.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	proxy.Heal()
	seen.Wait("delete a.only", 1, 5*time.Second)
}

// Seen elsewhere: one's own DELETE and the PUT after it are taken for one's own
// and skipped, and the first lease leaks.
func TestPeersMistakeRejoin(t *testing.T) {
	server := start(t)
	b := openAs(t, server, "alice")
	seen := record(t, b, "a.x")
	seen.Wait("synced", 1, 5*time.Second)
	for i := 1; i <= 3; i++ {
		l := lease(t, b)
		claim(t, l, "a.x", "me")
		seen.Wait("put a.x=me held=true", i, 2*time.Second)
		if err := l.Close(t.Context()); err != nil {
			t.Error(err)
		}
		seen.Wait("delete a.x", i, 2*time.Second)
	}
	resp, err := server.Admin.Leases(t.Context())
	if err != nil || len(resp.Leases) != 0 {
		t.Errorf("%v leases are left, %v", resp.Leases, err)
	}
}

// A crossing leads to one of several servers.
type crossing struct {
	listener net.Listener
	to       atomic.Pointer[string]
	mu       sync.Mutex
	conns    []net.Conn
}

func newCrossing(t *testing.T, to string) *crossing {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &crossing{listener: listener}
	c.to.Store(&to)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", *c.to.Load())
			if err != nil {
				client.Close()
				continue
			}
			c.mu.Lock()
			c.conns = append(c.conns, client, server)
			c.mu.Unlock()
			wg.Go(func() { defer client.Close(); _, _ = io.Copy(client, server) })
			wg.Go(func() { defer server.Close(); _, _ = io.Copy(server, client) })
		}
	})
	t.Cleanup(func() { listener.Close(); c.lead(""); wg.Wait() })
	return c
}

func (c *crossing) lead(to string) {
	c.to.Store(&to)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		conn.Close()
	}
	c.conns = nil
}

// A server that was restored from an old snapshot is, to its clients, another
// server with another history at the same address. Its revision may be lower
// than what was seen, or have passed it again, so that the same revision of a
// name has another value.
func TestWatchAfterSnapshotRestore(t *testing.T) {
	live, restored := start(t), start(t)
	put := func(server *harness.Etcd, n, value string) int64 {
		resp, err := server.Admin.Put(t.Context(), key(n), value)
		if err != nil {
			t.Fatal(err)
		}
		return resp.Header.Revision
	}
	// A certificate is made for each test server: alice shows the right one.
	var certificate atomic.Pointer[tls.Certificate]
	show := func(server *harness.Etcd) {
		cert := server.CA.Client(t, "alice").TLS()
		certificate.Store(&cert)
	}
	show(live)
	cfg := etcd.Config{TLSConfig: &tls.Config{
		RootCAs:              live.CA.Pool(),
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate.Load(), nil },
	}}
	if !cfg.TLSConfig.RootCAs.AppendCertsFromPEM(restored.CA.PEM()) {
		t.Fatal("no CA")
	}
	put(live, "a.same", "1")
	put(restored, "a.same", "1") // at the same revision
	liveRev := put(live, "a.recurs", "live")
	if rev := put(restored, "a.recurs", "restored"); rev != liveRev {
		t.Fatalf("revision %d and %d: want the same", rev, liveRev)
	}
	for i := range 20 {
		put(live, fmt.Sprintf("a.lost%d", i%2), fmt.Sprint(i))
	}

	roads := newCrossing(t, live.Address)
	cfg.Endpoints = []string{"https://" + roads.listener.Addr().String()}
	b := open(t, cfg)
	seen := record(t, b, "a.")
	seen.Wait("synced", 1, 5*time.Second)
	before := len(seen.All())
	show(restored)
	roads.lead(restored.Address)
	seen.Wait("synced", 2, 8*time.Second)
	got := seen.All()[before:]
	slices.Sort(got)
	want := []string{"delete a.lost0", "delete a.lost1", "down", "put a.recurs=restored held=false", "synced"}
	if !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
	put(restored, "a.new", "1") // at a revision far below what was seen
	seen.Wait("put a.new=1 held=false", 1, 2*time.Second)
}

// A thousand watches cost one stream, and being re-authorised all the time they
// lose nothing and say nothing of it.
func TestManyWatches(t *testing.T) {
	server := start(t)
	cfg := config(t, server, "alice")
	cfg.ReauthorizeEvery = time.Second
	b := open(t, cfg)
	const watches = 1000
	var all []*harness.WatchLog
	begin := time.Now()
	for i := range watches {
		all = append(all, record(t, b, fmt.Sprintf("a.n%d", i)))
	}
	for _, r := range all {
		r.Wait("synced", 1, 20*time.Second)
	}
	t.Logf("%d watches in %v", watches, time.Since(begin))
	writer := clientOf(t, server, "alice")
	begin = time.Now()
	for round := range 5 {
		for i := range watches {
			if _, err := writer.Put(t.Context(), key(fmt.Sprintf("a.n%d", i)), fmt.Sprint(round)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, r := range all {
		r.Wait(fmt.Sprintf("put a.n%d=4 held=false", i), 1, 5*time.Second)
	}
	t.Logf("5 changes of each in %v", time.Since(begin))
	for i, r := range all {
		for _, line := range r.All() {
			if line == "down" || line == "delete" {
				t.Fatalf("watch %d was told %q", i, r.All())
			}
		}
	}
	// All of it once more after a quiet time in which nothing but recycling happens.
	<-time.After(3 * time.Second)
	if _, err := server.Admin.Delete(t.Context(), key("a."), clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	for i, r := range all {
		r.Wait(fmt.Sprintf("delete a.n%d", i), 1, 5*time.Second)
	}
}
