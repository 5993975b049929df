package consul_test

import (
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

	"github.com/seed-6593ebad/skywarden/backends/backendtest"
	"github.com/seed-6593ebad/skywarden/integration/harness"
	"github.com/seed-6593ebad/skywarden/naming"
)

// forbidden wants the server's own refusal.
func forbidden(t *testing.T, what string, err error) {
	t.Helper()
	if status, ok := errors.AsType[api.StatusError](err); (!ok || status.Code != 403) && (err == nil || !strings.Contains(err.Error(), "403")) {
		t.Errorf("%s: %v, want status 403", what, err)
	}
}

// mallory is a second principal, who reads everything and owns names of her own,
// with the SDK in her hands.
func mallory(t *testing.T, server *harness.Consul) *api.Client {
	t.Helper()
	return server.Client(t, principal(t, server.ConsulAccess, "bob", rights(t, "bob")))
}

func writing(t *testing.T) *api.WriteOptions {
	t.Helper()
	return (&api.WriteOptions{}).WithContext(t.Context())
}

// hers makes a session of mallory's own.
func hers(t *testing.T, client *api.Client) string {
	t.Helper()
	id, _, err := client.Session().CreateNoChecks(&api.SessionEntry{
		Node: node("bob"), TTL: "60s", LockDelay: time.Millisecond, Behavior: api.SessionBehaviorDelete,
	}, writing(t))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestThreat15SessionOfSomebodyElse(t *testing.T) {
	t.Parallel()
	server := start(t)
	client := mallory(t, server)
	b := openAs(t, server.ConsulAccess, "alice")
	l := lease(t, b)
	claim(t, l, "a.victim", "1")
	id := sessionOf(t, server, "a.victim")

	_, err := client.Session().Destroy(id, writing(t))
	forbidden(t, "destroy", err)
	_, _, err = client.Session().Renew(id, writing(t))
	forbidden(t, "renew", err)
	_, _, err = client.Session().CreateNoChecks(&api.SessionEntry{Node: node("alice"), TTL: "60s"}, writing(t))
	forbidden(t, "a session on the victim's node", err)
	_, _, err = client.KV().Release(&api.KVPair{Key: key("a.victim"), Session: id}, writing(t))
	forbidden(t, "release", err)
	_, err = client.KV().Put(&api.KVPair{Key: key("a.victim")}, writing(t))
	forbidden(t, "put", err)
	_, err = client.KV().Delete(key("a.victim"), writing(t))
	forbidden(t, "delete", err)
	_, err = client.KV().DeleteTree(root+"/", writing(t))
	forbidden(t, "delete the tree", err)
	_, err = client.Catalog().Deregister(&api.CatalogDeregistration{Node: node("alice")}, writing(t))
	forbidden(t, "deregister the victim's node", err)
	_, err = client.Catalog().Register(&api.CatalogRegistration{Node: node("alice"), Address: "127.0.0.1", SkipNodeUpdate: true}, writing(t))
	if err == nil && stored(t, server.Admin, "a.victim") == nil {
		t.Error("a registration took the name")
	}
	// Paths that the client or the server cleans up (threat 23): rights are those on
	// the key that comes out.
	for _, path := range []string{"b/../a/victim", "b//../a/victim", "shared/..//a/victim", "b/%2e%2e/a/victim", "b/..%2fa%2fvictim"} {
		_, err := client.KV().Put(&api.KVPair{Key: root + "/names/" + path, Value: []byte("evil")}, writing(t))
		t.Logf("put %s: %v", path, err)
	}
	if pair := stored(t, server.Admin, "a.victim"); pair == nil || pair.Session != id || string(pair.Value) != "1" {
		t.Errorf("the name has become %+v", pair)
	}

	// U: with a rule over all sessions she ends it, and the name vanishes.
	watch := harness.Watch(t, b, scope(t, "a.victim"))
	watch.Wait("put a.victim=1 held=true", 1, 5*time.Second)
	server.Policy(t, "all-sessions", `session_prefix "" { policy = "write" }`)
	careless := server.Client(t, server.Token(t, "all-sessions"))
	if _, err := careless.Session().Destroy(id, writing(t)); err != nil {
		t.Fatal(err)
	}
	watch.Wait("delete a.victim", 1, 2*time.Second)
	if pair := stored(t, server.Admin, "a.victim"); pair != nil {
		t.Errorf("the name is still there: %v", pair)
	}
	lostBy(t, l)
}

// Locks bind who wants to be bound: whoever may write the key writes over it, and
// Consul goes on showing the owner's session. The owner is told by the revision.
func TestThreat17PutUnderALock(t *testing.T) {
	t.Parallel()
	server := start(t)
	client := mallory(t, server)
	b := openAs(t, server.ConsulAccess, "alice")
	l := lease(t, b)
	rev := claim(t, l, "shared.bank", "good")
	watch := harness.Watch(t, b, scope(t, "shared.bank"))
	watch.Wait("put shared.bank=good held=true", 1, 5*time.Second)
	id := sessionOf(t, server, "shared.bank")
	put(t, client, key("shared.bank"), "evil")
	if got := sessionOf(t, server, "shared.bank"); got != id {
		t.Errorf("Consul shows session %s after the put, not the owner's %s", got, id)
	}
	watch.Wait("put shared.bank=evil held=true", 1, 2*time.Second)
	_, err := l.Update(t.Context(), name(t, "shared.bank"), []byte("better"), rev)
	mustBe(t, err, naming.ErrTaken)
	taken, ok := errors.AsType[*naming.TakenError](err)
	if !ok || string(taken.Entry.Value) != "evil" || !taken.Entry.Held || taken.Entry.Revision <= rev {
		t.Fatalf("taken by %+v", taken)
	}
	if pair := stored(t, server.Admin, "shared.bank"); string(pair.Value) != "evil" {
		t.Errorf("stored is %q", pair.Value)
	}
	// S8: the owner takes exactly that over.
	if _, err := l.Claim(t.Context(), name(t, "shared.bank"), []byte("good again"), taken.Entry.Revision); err != nil {
		t.Fatal(err)
	}
	watch.Wait("put shared.bank=good again held=true", 1, 2*time.Second)
	// What is put under the lock right before a release goes with it.
	put(t, client, key("shared.bank"), "evil")
	if err := l.Release(t.Context(), name(t, "shared.bank")); err != nil {
		t.Error(err)
	}
	if pair := stored(t, server.Admin, "shared.bank"); pair != nil {
		t.Errorf("left behind: %v", pair)
	}
}

// The session on a key proves nothing: anybody may acquire his own key with the
// session of somebody else, whose names are not touched by it.
func TestForeignSessionOnOnesOwnKey(t *testing.T) {
	t.Parallel()
	server := start(t)
	client := mallory(t, server)
	b := openAs(t, server.ConsulAccess, "alice")
	l := lease(t, b)
	rev := claim(t, l, "a.x", "1")
	done, _, err := client.KV().Acquire(&api.KVPair{Key: key("b.x"), Value: []byte("bait"), Session: sessionOf(t, server, "a.x")}, writing(t))
	if err != nil || !done {
		t.Fatalf("acquire: %t, %v", done, err)
	}
	// Nor is it the owner's to change: it is not hers.
	entry, err := b.Get(t.Context(), name(t, "b.x"))
	if err != nil || !entry.Held {
		t.Fatalf("%+v, %v", entry, err)
	}
	_, err = l.Update(t.Context(), name(t, "b.x"), nil, entry.Revision)
	mustBe(t, err, naming.ErrDenied)
	if rev, err = l.Update(t.Context(), name(t, "a.x"), []byte("2"), rev); err != nil {
		t.Fatal(err)
	}
	if _, _, err := client.KV().Release(&api.KVPair{Key: key("b.x"), Session: sessionOf(t, server, "b.x")}, writing(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Update(t.Context(), name(t, "a.x"), []byte("3"), rev); err != nil {
		t.Error(err)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// Seen elsewhere: a client takes over the lease that it finds on its key. If an
// attacker put it there, the name is his to end.
func TestThreat45PeersMistakeAdoption(t *testing.T) {
	t.Parallel()
	server := start(t)
	client := mallory(t, server)
	id := hers(t, client)
	if done, _, err := client.KV().Acquire(&api.KVPair{Key: key("shared.bank"), Value: []byte("evil"), Session: id}, writing(t)); err != nil || !done {
		t.Fatalf("acquire: %t, %v", done, err)
	}
	l := lease(t, openAs(t, server.ConsulAccess, "alice"))
	_, err := l.Claim(t.Context(), name(t, "shared.bank"), []byte("good"), 0)
	mustBe(t, err, naming.ErrTaken)
	taken, ok := errors.AsType[*naming.TakenError](err)
	if !ok || string(taken.Entry.Value) != "evil" || !taken.Entry.Held {
		t.Fatalf("taken by %+v", taken)
	}
	// Whoever may decide that the entry is not valid takes exactly it over, onto
	// our own session.
	if _, err := l.Claim(t.Context(), name(t, "shared.bank"), []byte("good"), taken.Entry.Revision); err != nil {
		t.Fatal(err)
	}
	if got := sessionOf(t, server, "shared.bank"); got == id {
		t.Error("the name is on the attacker's session")
	}
	if _, err := client.Session().Destroy(id, writing(t)); err != nil {
		t.Fatal(err)
	}
	if pair := stored(t, server.Admin, "shared.bank"); pair == nil || string(pair.Value) != "good" {
		t.Errorf("the attacker's session took the name with it: %v", pair)
	}

	// What no session holds is claimed, and goes with our session.
	put(t, client, key("shared.free"), "evil")
	claim(t, l, "shared.free", "good")
	if err := l.Close(t.Context()); err != nil {
		t.Error(err)
	}
	for _, n := range []string{"shared.free", "shared.bank"} {
		if pair := stored(t, server.Admin, n); pair != nil {
			t.Errorf("left behind: %v", pair)
		}
	}
}

// Seen elsewhere: one malformed entry makes a whole listing fail. And keys that
// look like those of names are none, and hide none.
func TestThreat23And24PeersMistakePoison(t *testing.T) {
	t.Parallel()
	server := start(t)
	lookAlikes := []string{
		root + "/names/a/GOOD", root + "/names/A/good", root + "/names/a.good", root + "/names/a%2fgood", root + "/names/a/good/",
		root + "/names/a/good ", root + "/names/a/\xff", root + "/names/a/-", root + "/names/", root + "/names/a/", root + "/namesake/a/good", root + "/other/x",
		root + "/names/a/ｇood", root + "/names/a/b/c/d/e/f/g/h/i", root + "/names/a/" + strings.Repeat("x", 300),
	}
	for _, k := range lookAlikes {
		put(t, server.Admin, k, "poison")
	}
	put(t, server.Admin, key("a.big"), strings.Repeat("x", 512<<10))
	b := openAs(t, server.ConsulAccess, "alice")
	l := lease(t, b)
	rev := claim(t, l, "a.good", "1")
	family, all, only := harness.Watch(t, b, scope(t, "a.")), harness.Watch(t, b, naming.All()), harness.Watch(t, b, scope(t, "a.good"))
	watches := []*harness.WatchLog{family, all, only}
	for _, w := range watches {
		w.Wait("synced", 1, 5*time.Second)
		w.Wait("put a.good=1 held=true", 1, time.Second)
	}
	for _, k := range lookAlikes { // once more, while we watch
		put(t, server.Admin, k, "poison again")
	}
	put(t, server.Admin, key("a.nobodys"), strings.Repeat("y", 512<<10))
	if _, err := l.Update(t.Context(), name(t, "a.good"), []byte("2"), rev); err != nil {
		t.Fatal(err)
	}
	for _, w := range watches {
		w.Wait("put a.good=2 held=true", 1, 5*time.Second)
	}
	for _, w := range watches[:2] { // in no order within a listing
		w.Wait("put a.nobodys="+strings.Repeat("y", 512<<10)+" held=false", 1, 5*time.Second)
	}
	big := 0
	for i, w := range watches {
		for _, line := range w.All() {
			switch {
			case strings.Contains(line, "poison"):
				t.Errorf("told: %q", line)
			case len(line) > 512<<10:
				big++
			case line != "synced" && !strings.HasPrefix(line, "put a.good="):
				t.Errorf("watch %d was told %.80q", i, line)
			}
		}
	}
	if big != 4 {
		t.Errorf("%d large values were told, want 2 in the family and 2 in all", big)
	}
	entry, err := b.Get(t.Context(), name(t, "a.good"))
	if err != nil || string(entry.Value) != "2" {
		t.Errorf("Get: %q, %v", entry.Value, err)
	}
	for _, n := range []string{"a.good", "a.big", "a.nobodys"} {
		if _, err := l.Claim(t.Context(), name(t, n), nil, 0); (err == nil) != (n != "a.good") {
			t.Errorf("claim %s: %v", n, err)
		}
	}
}

// Seen elsewhere: a prefix without its last slash holds "bank2" too, in a watch
// as in a policy.
func TestPeersMistakePrefixBleed(t *testing.T) {
	t.Parallel()
	server := start(t)
	rights := backendtest.Rights{Read: []naming.Scope{naming.All()}, Claim: []naming.Scope{scope(t, "bank."), scope(t, "exact")}}
	b := open(t, configWith(t, server.ConsulAccess, "teller", principal(t, server.ConsulAccess, "teller", rights)))
	watch := harness.Watch(t, b, scope(t, "bank."))
	watch.Wait("synced", 1, 5*time.Second)
	for _, n := range []string{"bank", "bank2", "bank-x", "bank2.a"} {
		put(t, server.Admin, key(n), "neighbour")
	}
	l := lease(t, b)
	for _, n := range []string{"bank", "bank2", "bank-x", "bank2.a", "exact.child", "exact2", "exac"} {
		_, err := l.Claim(t.Context(), name(t, n), nil, 0)
		mustBe(t, err, naming.ErrDenied)
	}
	claim(t, l, "exact", "1")
	claim(t, l, "bank.a", "1")
	watch.Wait("put bank.a=1 held=true", 1, 5*time.Second)
	if got := watch.All(); len(got) != 2 {
		t.Errorf("the watch saw %q", got)
	}
}

// Seen elsewhere: existence is looked up, and then put without a condition.
func TestPeersMistakeUnconditionalPut(t *testing.T) {
	t.Parallel()
	server := start(t)
	backends := []naming.Backend{openAs(t, server.ConsulAccess, "alice"), openAs(t, server.ConsulAccess, "bob")}
	var leases []naming.Lease
	for i := range 8 {
		leases = append(leases, lease(t, backends[i%2]))
	}
	for round := range 10 {
		n := name(t, fmt.Sprintf("shared.r%d", round))
		var won atomic.Int32
		var racing sync.WaitGroup
		for i, l := range leases {
			racing.Go(func() {
				_, err := l.Claim(t.Context(), n, fmt.Append(nil, i), 0)
				switch {
				case err == nil:
					won.Add(1)
				case !errors.Is(err, naming.ErrTaken):
					t.Error(err)
				}
			})
		}
		racing.Wait()
		if won.Load() != 1 {
			t.Errorf("%s was claimed by %d, want 1", n, won.Load())
		}
	}
}

// Seen elsewhere: an empty list is not told, so that nobody sees the last one
// leave. (For who leaves during an outage see TestPeersMistakeLastOneLeaves.)
func TestPeersMistakeEmptyList(t *testing.T) {
	t.Parallel()
	server := start(t)
	b := openAs(t, server.ConsulAccess, "alice")
	watches := []*harness.WatchLog{harness.Watch(t, b, scope(t, "a.x")), harness.Watch(t, b, scope(t, "a.")), harness.Watch(t, b, naming.All())}
	for _, w := range watches {
		w.Wait("synced", 1, 5*time.Second)
	}
	for round := 1; round <= 2; round++ { // the second joins an empty family
		l := lease(t, b)
		claim(t, l, "a.x", "1")
		for _, w := range watches {
			w.Wait("put a.x=1 held=true", round, 5*time.Second)
		}
		if err := l.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, w := range watches {
			w.Wait("delete a.x", round, 5*time.Second)
		}
	}
}

// Seen elsewhere: who was dropped by the server does not notice for minutes
// (issue 18271 of Consul), and leaves sessions behind.
func TestPeersMistakeLateLoss(t *testing.T) {
	t.Parallel()
	server := start(t)
	b := openAs(t, server.ConsulAccess, "alice")
	watch := harness.Watch(t, b, scope(t, "a."))
	watch.Wait("synced", 1, 5*time.Second)
	for round := 1; round <= 2; round++ {
		l := lease(t, b)
		claim(t, l, "a.x", fmt.Sprint(round))
		watch.Wait(fmt.Sprintf("put a.x=%d held=true", round), 1, 5*time.Second)
		if _, err := server.Admin.Session().Destroy(sessionOf(t, server, "a.x"), writing(t)); err != nil {
			t.Fatal(err)
		}
		gone := time.Now()
		lostBy(t, l)
		if took := time.Since(gone); took > ttl/5+slack {
			t.Errorf("the loss was noticed after %v", took)
		}
		_, err := l.Claim(t.Context(), name(t, "a.x"), nil, 0)
		mustBe(t, err, naming.ErrLeaseLost)
		watch.Wait("delete a.x", round, 5*time.Second)
	}
	claim(t, lease(t, b), "a.x", "last")
	watch.Wait("put a.x=last held=true", 1, 5*time.Second)
	sessions, _, err := server.Admin.Session().Node(node("alice"), (&api.QueryOptions{RequireConsistent: true}).WithContext(t.Context()))
	if err != nil || len(sessions) != 1 {
		t.Errorf("%d sessions, %v, want 1", len(sessions), err)
	}
}

// Seen elsewhere: a watch that does not begin where the listing ended loses what
// happens between.
func TestPeersMistakeGapAfterListing(t *testing.T) {
	t.Parallel()
	server := start(t)
	b := openAs(t, server.ConsulAccess, "alice")
	l := lease(t, b)
	rev := claim(t, l, "a.x", "0")
	var latest string
	var watches []*harness.WatchLog
	for i := 1; i <= 40; i++ {
		latest = fmt.Sprint(i)
		if i%4 == 0 { // begins while the name changes
			watches = append(watches, harness.Watch(t, b, scope(t, "a.x")), harness.Watch(t, b, scope(t, "a.")))
		}
		var err error
		if rev, err = l.Update(t.Context(), name(t, "a.x"), []byte(latest), rev); err != nil {
			t.Fatal(err)
		}
	}
	for _, w := range watches {
		w.Wait("put a.x="+latest+" held=true", 1, 5*time.Second)
		if slices.Contains(w.All(), "down") {
			t.Errorf("the watch saw %q", w.All())
		}
	}
}

// Somebody who may claim one of our names too takes it the moment after we had it.
func TestTakenAMomentLater(t *testing.T) {
	server := start(t)
	var taken atomic.Bool
	url := serve(t, server.CA, relay(t, server, func(r *http.Response) error {
		if r.Request.Method == http.MethodPut && strings.HasPrefix(r.Request.URL.Path, "/v1/kv/") && strings.Contains(r.Request.URL.Path, "/shared/") && taken.CompareAndSwap(false, true) {
			if _, err := server.Admin.KV().Delete(key("shared.x"), nil); err != nil {
				t.Error(err)
			}
		}
		return nil
	}), nil)
	b := open(t, at(config(t, server.ConsulAccess, "alice"), url))
	l := lease(t, b)
	claim(t, l, "a.x", "1")
	_, err := l.Claim(t.Context(), name(t, "shared.x"), []byte("1"), 0)
	mustBe(t, err, naming.ErrTaken)
	alive(t, l)
	if stored(t, server.Admin, "a.x") == nil {
		t.Error("a.x is gone too")
	}
	claim(t, l, "shared.x", "2")
}
