package etcd_test

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/seed-6593ebad/skywarden/backends/etcd"
	"github.com/seed-6593ebad/skywarden/integration/harness"
	"github.com/seed-6593ebad/skywarden/naming"
)

// admin opens an administrator with a certificate for user.
func admin(t *testing.T, server *harness.Etcd, user string) *etcd.Admin {
	t.Helper()
	a, err := etcd.OpenAdmin(t.Context(), etcd.AdminConfig{Config: config(t, server, user)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

// From a server with access control off to one on which everybody has exactly
// what the grants say. Once more changes nothing.
func TestProvision(t *testing.T) {
	server := harness.StartEtcd(t, harness.EtcdOptions{NoAuth: true})
	grants := []naming.Grant{
		harness.GrantOf(t, "alice", "read ", "claim a.", "none a.secret", "claim a"),
		harness.GrantOf(t, "bob", "read ", "claim b."),
		harness.GrantOf(t, "dora", "claim d"),
	}
	a := admin(t, server, "root")
	changes := harness.Plan(t, a, false, grants...)
	harness.WantPlan(t, changes,
		"create role skywarden:alice: readwrite /skywarden/names/a, readwrite [/skywarden/names/a/, /skywarden/names/a/secret), ",
		"create user alice: ",
		"create role skywarden:bob: readwrite /skywarden/names/b/*, read /skywarden/names/*",
		"create user bob: ",
		"create role skywarden:dora: readwrite /skywarden/names/d",
		"create user dora: ",
		"create user root: ",
		"change access control: turn it on",
	)
	harness.Apply(t, changes)
	harness.WantPlan(t, harness.Plan(t, a, true, grants...))
	harness.Apply(t, changes) // a repetition harms nobody
	harness.WantPlan(t, harness.Plan(t, a, true, grants...))

	for user, wants := range map[string]map[string]naming.Access{
		"alice": {"a": naming.MayClaim, "a.x": naming.MayClaim, "a.secre": naming.MayClaim, "a.secret": naming.NoAccess, "a.secret-x": naming.MayClaim, "a.secret.x": naming.MayClaim, "b.x": naming.MayRead, "a2": naming.MayRead},
		"bob":   {"b.x": naming.MayClaim, "b": naming.MayRead, "b2.x": naming.MayRead, "a.secret": naming.MayRead},
		"dora":  {"d": naming.MayClaim, "d.x": naming.NoAccess, "d-x": naming.NoAccess, "a": naming.NoAccess},
	} {
		b := openAs(t, server, user)
		l := lease(t, b)
		for n, want := range wants {
			_, err := b.Get(t.Context(), name(t, n))
			if mayRead := !errors.Is(err, naming.ErrDenied); mayRead != (want >= naming.MayRead) {
				t.Errorf("%s reads %s: %v, want %v", user, n, err, want)
			}
			_, err = l.Claim(t.Context(), name(t, n), nil, 1<<62)
			if kind := map[bool]error{true: naming.ErrTaken, false: naming.ErrDenied}[want == naming.MayClaim]; !errors.Is(err, kind) {
				t.Errorf("%s claims %s: %v, want %v", user, n, err, want)
			}
		}
	}
	// A watch over all names is let pass by the one range of bob, in which a part is
	// readwrite as well; alice has an exclusion, and watches what is beside it.
	for user, scopes := range map[string]map[string]bool{
		"bob": {"": true, "b.": true, "a.": true}, "alice": {"": false, "a.": false, "a.x.": true, "b.": true}, "dora": {"": false, "d": true},
	} {
		b := openAs(t, server, user)
		for sc, want := range scopes {
			if got := synced(t, b, sc); got != want {
				t.Errorf("%s watches %q: %v, want %v", user, sc, got, want)
			}
		}
	}
}

// synced says whether a watch is let pass.
func synced(t *testing.T, b *etcd.Backend, sc string) bool {
	t.Helper()
	for e, err := range b.Watch(t.Context(), scope(t, sc)) {
		switch {
		case errors.Is(err, naming.ErrDenied):
			return false
		case err != nil:
			t.Fatal(err)
		case e.Kind == naming.Synced:
			return true
		}
	}
	return false
}

// What somebody changed by hand is told and repaired, and nothing else is.
func TestProvisionDrift(t *testing.T) {
	server := harness.StartEtcd(t, harness.EtcdOptions{})
	grants := []naming.Grant{harness.GrantOf(t, "alice", "read ", "claim a."), harness.GrantOf(t, "bob", "read ", "claim b.")}
	a := admin(t, server, "root")
	server.SetRole(t, "elsewhere", harness.ReadWritePrefix("/other/"))
	server.SetUser(t, "alice", "elsewhere")
	harness.Apply(t, harness.Plan(t, a, false, grants...))
	harness.WantPlan(t, harness.Plan(t, a, true, grants...))

	for _, test := range []struct {
		title string
		drift func()
		want  []string
		prune bool
	}{
		{
			"a permission too many", func() { server.SetRole(t, "skywarden:alice", harness.ReadWrite(key("b.x"))) },
			[]string{"change role skywarden:alice: take readwrite /skywarden/names/b/x, which is too much"},
			false,
		},
		{
			"a permission is missing", func() { server.RevokeGrants(t, "skywarden:alice", harness.ReadWritePrefix(key("a."))) },
			[]string{"change role skywarden:alice: give readwrite /skywarden/names/a/*, which is missing"},
			false,
		},
		{
			"less than it should be", func() { server.SetRole(t, "skywarden:alice", harness.ReadPrefix(key("a."))) },
			[]string{"change role skywarden:alice: give readwrite /skywarden/names/a/*, which is read"},
			false,
		},
		{
			"more than it should be", func() { server.SetRole(t, "skywarden:alice", harness.ReadWritePrefix(root+"/names/")) },
			[]string{"change role skywarden:alice: give read /skywarden/names/*, which is readwrite"},
			false,
		},
		{
			"the role was taken from its user", func() { server.RevokeRole(t, "alice", "skywarden:alice") },
			[]string{"change user alice: give the role skywarden:alice"},
			false,
		},
		{
			"the role is gone", func() {
				mustDo(t, server, func(c *clientv3.Client) error { _, err := c.RoleDelete(t.Context(), "skywarden:alice"); return err })
			},
			[]string{"create role skywarden:alice", "change user alice: give the role skywarden:alice"},
			false,
		},
		{
			"the user is gone", func() {
				mustDo(t, server, func(c *clientv3.Client) error { _, err := c.UserDelete(t.Context(), "bob"); return err })
			},
			[]string{"create user bob"},
			false,
		},
		{"another role gives something below the root", func() {
			server.SetRole(t, "sneaky", harness.ReadPrefix("/"), harness.ReadWrite("/else"))
			server.SetUser(t, "bob", "sneaky", "skywarden:alice")
		}, []string{"change user bob: take the role skywarden:alice", "change user bob: take the role sneaky: it gives read /*"}, false},
		{
			"a principal is administrator", func() { server.SetUser(t, "bob", "root") },
			[]string{"change user bob: take the role root: it gives everything"},
			false,
		},
		{"a user who is not in the list, with a role of ours", func() {
			server.SetRole(t, "skywarden:gone", harness.ReadWrite(key("gone")))
			server.SetUser(t, "gone", "skywarden:gone")
		}, []string{"delete user gone", "delete role skywarden:gone"}, true},
		{"a user who is not in the list, with a right below the root", func() {
			server.SetRole(t, "one-name", harness.ReadWrite(key("b.x")))
			server.SetUser(t, "mallory", "one-name", "elsewhere", "skywarden:bob")
		}, []string{"change user mallory: take the role one-name: it gives readwrite /skywarden/names/b/x", "change user mallory: take the role skywarden:bob"}, true},
	} {
		t.Run(test.title, func(t *testing.T) {
			test.drift()
			if test.prune {
				harness.WantPlan(t, harness.Plan(t, a, false, grants...))
			}
			changes := harness.Plan(t, a, test.prune, grants...)
			harness.WantPlan(t, changes, test.want...)
			harness.Apply(t, changes)
			harness.WantPlan(t, harness.Plan(t, a, true, grants...))
		})
	}
	// What is none of our business is as before.
	mustDo(t, server, func(c *clientv3.Client) error {
		for _, user := range []string{"alice", "mallory"} {
			resp, err := c.UserGet(t.Context(), user)
			if err != nil {
				return err
			}
			if !slices.Contains(resp.Roles, "elsewhere") {
				t.Errorf("%s has %q", user, resp.Roles)
			}
		}
		resp, err := c.RoleGet(t.Context(), "sneaky")
		if err == nil && len(resp.Perm) != 2 {
			t.Errorf("sneaky has %v", resp.Perm)
		}
		return err
	})
}

func mustDo(t *testing.T, server *harness.Etcd, do func(*clientv3.Client) error) {
	t.Helper()
	if err := do(server.Admin); err != nil {
		t.Fatal(err)
	}
}

// Two roots on one server have nothing to do with each other.
func TestProvisionTwoRoots(t *testing.T) {
	server := harness.StartEtcd(t, harness.EtcdOptions{})
	one := admin(t, server, "root")
	cfg := config(t, server, "root")
	cfg.Root = "/test"
	two, err := etcd.OpenAdmin(t.Context(), etcd.AdminConfig{Config: cfg})
	if err != nil {
		t.Fatal(err)
	}
	defer two.Close()
	first, second := harness.GrantOf(t, "alice", "claim a."), harness.GrantOf(t, "alice", "claim b.")
	harness.Apply(t, harness.Plan(t, one, true, first))
	changes := harness.Plan(t, two, true, second)
	harness.WantPlan(t, changes, "create role test:alice: readwrite /test/names/b/*", "change user alice: give the role test:alice")
	harness.Apply(t, changes)
	harness.WantPlan(t, harness.Plan(t, one, true, first))
	harness.WantPlan(t, harness.Plan(t, two, true, second))
	harness.Apply(t, harness.Plan(t, two, true)) // nobody is in its list any more
	harness.WantPlan(t, harness.Plan(t, one, true, first))
}

// While a plan is applied nobody loses what he has before and after: an owner
// goes on claiming while the scheme of its roles changes.
func TestProvisionDoesNotDisturbOwners(t *testing.T) {
	server := start(t)
	a := admin(t, server, "root")
	b := openAs(t, server, "alice")
	l := lease(t, b)
	claim(t, l, "a.x", "1")
	ctx, stop := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			for _, n := range []string{"a.y", "shared.y"} {
				_, err := l.Claim(ctx, name(t, n), []byte("1"), 0)
				if err == nil {
					err = l.Release(ctx, name(t, n))
				}
				if err != nil && ctx.Err() == nil {
					failed <- err
					return
				}
			}
		}
		failed <- nil
	}()
	grants := []naming.Grant{harness.GrantOf(t, "alice", "read ", "claim a.", "claim a", "claim shared."), harness.GrantOf(t, "bob", "read ", "claim b.", "claim shared.")}
	changes := harness.Plan(t, a, true, grants...)
	harness.WantPlan(t, changes,
		"create role skywarden:alice", "change user alice: give", "create role skywarden:bob", "change user bob: give",
		"change user alice: take the role names-read", "change user alice: take the role own-a", "change user alice: take the role own-shared",
		"change user bob: take the role names-read", "change user bob: take the role own-b", "change user bob: take the role own-shared",
	)
	for _, c := range changes {
		harness.Apply(t, []naming.Change{c})
		if entry, err := b.Get(t.Context(), name(t, "a.x")); err != nil || !entry.Held {
			t.Errorf("after %s %s: %v, %v", c.Do, c.Object, entry, err)
		}
	}
	stop()
	if err := <-failed; err != nil {
		t.Errorf("the owner was disturbed: %v", err)
	}
	harness.WantPlan(t, harness.Plan(t, a, true, grants...))
}

func TestProvisionRefuses(t *testing.T) {
	server := start(t)
	alice := harness.GrantOf(t, "alice", "claim a.")
	// Nobody but an administrator.
	_, err := admin(t, server, "bob").Plan(t.Context(), []naming.Grant{alice}, false)
	mustBe(t, err, naming.ErrDenied)
	// Nobody is both administrator and principal.
	a := admin(t, server, "root")
	_, err = a.Plan(t.Context(), []naming.Grant{harness.GrantOf(t, "root", "claim r")}, false)
	mustBe(t, err, naming.ErrInsecureConfig)
	server.SetUser(t, "alice", "root")
	_, err = admin(t, server, "alice").Plan(t.Context(), []naming.Grant{alice}, false)
	mustBe(t, err, naming.ErrInsecureConfig)
	// Nobody locks himself out.
	off := harness.StartEtcd(t, harness.EtcdOptions{NoAuth: true})
	_, err = admin(t, off, "alice").Plan(t.Context(), []naming.Grant{alice}, false)
	mustBe(t, err, naming.ErrInsecureConfig)
	// No server is left half known.
	server.Pause(t)
	begin := time.Now()
	_, err = a.Plan(t.Context(), []naming.Grant{alice}, false)
	mustBe(t, err, naming.ErrUnavailable)
	if took := time.Since(begin); took > 5*time.Second+slack {
		t.Errorf("Plan of a server that hangs took %v", took)
	}
	server.Unpause(t)
	old := harness.StartEtcd(t, harness.EtcdOptions{Version: "3.6.5"})
	_, err = etcd.OpenAdmin(t.Context(), etcd.AdminConfig{Config: config(t, old, "root")})
	mustBe(t, err, naming.ErrInsecureBackendVersion)
}

// Whatever the grants were and are to be: afterwards everybody has exactly what
// they say, and on the way there whoever may do something before and after may do
// it after each change.
func TestProvisionFromAnythingToAnything(t *testing.T) {
	const rounds = 8
	server := harness.StartEtcd(t, harness.EtcdOptions{})
	a := admin(t, server, "root")
	rnd := rand.New(rand.NewPCG(5, 5))
	principals := []string{"alice", "bob"}
	names := []string{"a", "a.b", "a.b-c", "a.b.c", "b", "b0.a"}
	scopes := []string{"", "a.", "a.b.", "a", "a.b", "a.b-c", "b", "b0."}
	grants := map[string]naming.Grant{}
	backends, leases := map[string]*etcd.Backend{}, map[string]naming.Lease{}
	for _, p := range principals {
		server.SetUser(t, p)
		grants[p] = naming.Grant{Principal: p}
		backends[p] = openAs(t, server, p)
		leases[p] = lease(t, backends[p])
	}
	access := func(p, n string) naming.Access {
		_, err := leases[p].Claim(t.Context(), name(t, n), nil, 1<<62)
		if errors.Is(err, naming.ErrTaken) {
			return naming.MayClaim
		}
		mustBe(t, err, naming.ErrDenied)
		if _, err = backends[p].Get(t.Context(), name(t, n)); !errors.Is(err, naming.ErrDenied) {
			mustBe(t, err, naming.ErrNotFound)
			return naming.MayRead
		}
		return naming.NoAccess
	}
	for round := range rounds {
		before, list := maps.Clone(grants), []naming.Grant{}
		for _, p := range principals {
			var permissions []string
			for _, sc := range scopes {
				if rnd.IntN(2) == 0 {
					permissions = append(permissions, []string{"none", "read", "claim"}[rnd.IntN(3)]+" "+sc)
				}
			}
			grants[p] = harness.GrantOf(t, p, permissions...)
			list = append(list, grants[p])
		}
		changes := harness.Plan(t, a, false, list...)
		for i, c := range changes {
			harness.Apply(t, changes[i:i+1])
			for _, p := range principals {
				for _, n := range names {
					least := min(before[p].Access(name(t, n)), grants[p].Access(name(t, n)))
					if got := access(p, n); got < least || i == len(changes)-1 && got != grants[p].Access(name(t, n)) {
						t.Errorf("round %d, after %s %s (%s): %s has %s at %s; before %v, to be %v", round, c.Do, c.Object, c.Detail, p, got, n, before[p], grants[p])
					}
				}
			}
		}
		harness.WantPlan(t, harness.Plan(t, a, true, list...))
	}
}
