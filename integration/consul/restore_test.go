package consul_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/seed-6593ebad/skywarden/backends/consul"
	"github.com/seed-6593ebad/skywarden/integration/harness"
	"github.com/seed-6593ebad/skywarden/naming"
)

// nowhere is where nobody listens.
const nowhere = "127.0.0.1:1"

// A road leads to one of several servers, and counts what travels on it.
type road struct {
	listener net.Listener
	mu       sync.Mutex
	to       string
	conns    map[net.Conn]struct{} // the clients' sides
	most     int                   // of conns
}

func newRoad(t *testing.T, to string) *road {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &road{listener: listener, to: to, conns: map[net.Conn]struct{}{}}
	var travel sync.WaitGroup
	travel.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			travel.Go(func() { r.carry(client) })
		}
	})
	t.Cleanup(func() { listener.Close(); r.lead(nowhere); travel.Wait() })
	return r
}

func (r *road) address() string { return r.listener.Addr().String() }

func (r *road) carry(client net.Conn) {
	defer client.Close()
	r.mu.Lock()
	to := r.to
	r.conns[client] = struct{}{}
	r.most = max(r.most, len(r.conns))
	r.mu.Unlock()
	defer func() { r.mu.Lock(); delete(r.conns, client); r.mu.Unlock() }()
	server, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer server.Close()
	var answers sync.WaitGroup
	answers.Go(func() { defer client.Close(); _, _ = io.Copy(client, server) })
	_, _ = io.Copy(server, client)
	server.Close()
	answers.Wait()
}

// lead cuts all connections; new ones go to another server.
func (r *road) lead(to string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.to = to
	for conn := range r.conns {
		conn.Close()
	}
}

// count gives the connections there are, and the most there were.
func (r *road) count() (now, most int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.conns), r.most
}

func snapshot(t *testing.T, admin *api.Client) []byte {
	t.Helper()
	from, _, err := admin.Snapshot().Save(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	saved, err := io.ReadAll(from)
	if err != nil {
		t.Fatal(err)
	}
	return saved
}

func restore(t *testing.T, admin *api.Client, saved []byte) {
	t.Helper()
	if err := admin.Snapshot().Restore(nil, bytes.NewReader(saved)); err != nil {
		t.Fatal(err)
	}
}

// An administrator restores an old snapshot while owners and watches live: the
// revisions fall. Watches end up with what is there, and soon: a query that waits
// is sent home by the restore with what it knew, and would wait for a higher
// index. Owners whose session the snapshot does not know have lost it; the others
// go on.
func TestS1SnapshotRestore(t *testing.T) {
	server := start(t)
	alice, bob := openAs(t, server.ConsulAccess, "alice"), openAs(t, server.ConsulAccess, "bob")
	before := lease(t, alice)
	rev := claim(t, before, "a.changed", "1")
	claim(t, before, "a.same", "1")
	claim(t, before, "shared.left", "1")
	// This one sees nothing that is newer than the snapshot.
	same := watch(t, bob, "a.same")
	saved := snapshot(t, server.Admin)

	rev, err := before.Update(t.Context(), name(t, "a.changed"), []byte("2"), rev)
	if err != nil {
		t.Fatal(err)
	}
	if err := before.Release(t.Context(), name(t, "shared.left")); err != nil {
		t.Fatal(err)
	}
	after := lease(t, bob)
	claim(t, after, "shared.new", "1")
	claim(t, after, "b.new", "1")
	watches := map[string]*harness.WatchLog{}
	told := map[string]int{}
	for _, sc := range []string{"shared.", "a.changed", "shared.left", "b.new", ""} {
		if sc == "" {
			// The others wait for a change by now. This one will not: it rests.
			<-time.After(time.Second)
		}
		watches[sc] = watch(t, bob, sc)
		told[sc] = len(watches[sc].All())
	}

	restore(t, server.Admin, saved)
	begin := time.Now()
	for sc, want := range map[string][]string{
		"":            {"delete b.new", "delete shared.new", "put a.changed=1 held=true", "put shared.left=1 held=true"},
		"shared.":     {"delete shared.new", "put shared.left=1 held=true"},
		"a.changed":   {"put a.changed=1 held=true"},
		"shared.left": {"put shared.left=1 held=true"},
		"b.new":       {"delete b.new"},
	} {
		for _, line := range want {
			watches[sc].Wait(line, 1, 10*time.Second)
		}
		t.Logf("%q is right %v after the restore (L3: 2s)", sc, time.Since(begin))
		got := slices.DeleteFunc(watches[sc].All()[told[sc]:], func(line string) bool { return line == "down" || line == "synced" })
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("%q: told %q, want %q", sc, got, want)
		}
	}
	if took := time.Since(begin); took > 2*time.Second+slack {
		t.Errorf("the watches were right after %v", took)
	}

	select {
	case <-after.Done():
		t.Logf("the lease that the snapshot does not know ended after %v", time.Since(begin))
	case <-time.After(ttl/5 + 2*time.Second):
		t.Error("the lease that the snapshot does not know lives")
	}
	claim(t, lease(t, bob), "b.new", "again")
	watches["b.new"].Wait("put b.new=again held=true", 1, 2*time.Second)

	// The other one holds what the snapshot has, at revisions that it has to learn.
	alive(t, before)
	_, err = before.Update(t.Context(), name(t, "a.changed"), []byte("3"), rev)
	mustBe(t, err, naming.ErrTaken)
	there, err := alice.Get(t.Context(), name(t, "a.changed"))
	if err != nil || there.Revision >= rev {
		t.Fatalf("%+v, %v: want a revision below %d", there, err, rev)
	}
	if _, err = before.Update(t.Context(), name(t, "a.changed"), []byte("3"), there.Revision); err != nil {
		t.Errorf("an update of what the lease holds, at the revision that it has: %v", err)
	}
	watches["a.changed"].Wait("put a.changed=3 held=true", 1, 2*time.Second)
	store(t, server.Admin, "a.same", "2")
	same.Wait("put a.same=2 held=true", 1, 2*time.Second)
	// It has also got back what it had released, without knowing of it.
	if err := before.Release(t.Context(), name(t, "shared.left")); err != nil {
		t.Error(err)
	}
	claim(t, lease(t, bob), "shared.left", "2")
}

// An old snapshot is restored on other servers, at the same address. There a
// foreign entry has just the revision that an owner knows of his own: he must not
// write over it and take the name for his.
func TestS1RevisionRecurs(t *testing.T) {
	t.Parallel()
	live, restored := start(t), start(t)
	cfg := config(t, live.ConsulAccess, "alice")
	bobs := principal(t, live.ConsulAccess, "bob", rights(t, "bob"))
	cfg.TLS = consul.TLS{}
	cfg.TLSConfig = &tls.Config{RootCAs: live.CA.Pool()}
	if !cfg.TLSConfig.RootCAs.AppendCertsFromPEM(restored.CA.PEM()) {
		t.Fatal("no CA")
	}
	way := newRoad(t, live.Address)
	b := open(t, via(cfg, way.address()))
	l, err := b.Lease(t.Context(), 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	rev := claim(t, l, "shared.x", "mine")
	seen := watch(t, b, "shared.x")
	saved := snapshot(t, live.Admin)
	restore(t, restored.Admin, saved)
	admin := restored.Client(t, live.ManagementToken) // the tokens are those of the snapshot
	foreign := restored.Client(t, bobs)
	eventually(t, 10*time.Second, "the restored server knows the tokens", func() bool {
		_, _, err := foreign.KV().Get(key("shared.x"), &api.QueryOptions{RequireConsistent: true})
		return err == nil
	})
	id, _, err := foreign.Session().CreateNoChecks(&api.SessionEntry{Node: node("bob"), TTL: "60s", LockDelay: time.Millisecond}, nil)
	if err != nil {
		t.Fatal(err)
	}
	index := func(admin *api.Client) naming.Revision {
		store(t, admin, "b.bump", time.Now().String())
		return naming.Revision(stored(t, admin, "b.bump").ModifyIndex)
	}
	recurs := func() bool {
		if _, err := admin.KV().Delete(key("shared.x"), nil); err != nil {
			t.Fatal(err)
		}
		at := index(admin)
		for rev < at+5 {
			index(live.Admin)
			if rev, err = l.Update(t.Context(), name(t, "shared.x"), []byte("mine"), rev); err != nil {
				t.Fatal(err)
			}
		}
		for at < rev-1 {
			at = index(admin)
		}
		pair := &api.KVPair{Key: key("shared.x"), Session: id, Value: []byte("foreign")}
		if done, _, err := foreign.KV().Acquire(pair, nil); !done {
			t.Fatal(err)
		}
		return naming.Revision(stored(t, admin, "shared.x").ModifyIndex) == rev
	}
	for try := 1; !recurs(); try++ { // a server writes things of its own, too
		if try == 10 {
			t.Fatal("no revision has recurred in 10 tries: this test tests nothing")
		}
	}
	way.lead(restored.Address)
	seen.Wait("put shared.x=foreign held=true", 1, 8*time.Second)
	if _, err := l.Update(t.Context(), name(t, "shared.x"), []byte("mine again"), rev); err == nil {
		t.Errorf("the owner takes a foreign name for his: %+v", stored(t, admin, "shared.x"))
	} else {
		t.Logf("the owner is told: %v", err)
	}
	if there := stored(t, admin, "shared.x"); there == nil || there.Session != id {
		t.Errorf("there is %+v, want it to be the foreign session's", there)
	}
}
