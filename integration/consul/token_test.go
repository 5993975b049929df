package consul_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/consul/api"

	"github.com/seed-6593ebad/skywarden/backends/consul"
	"github.com/seed-6593ebad/skywarden/integration/harness"
	"github.com/seed-6593ebad/skywarden/naming"
)

// put writes a key as it is, with no session.
func put(t *testing.T, client *api.Client, key, value string) {
	t.Helper()
	if _, err := client.KV().Put(&api.KVPair{Key: key, Value: []byte(value)}, (&api.WriteOptions{}).WithContext(t.Context())); err != nil {
		t.Fatalf("put %q: %v", key, err)
	}
}

// sessionOf is the id of the session on a key, which whoever may read the key
// knows.
func sessionOf(t *testing.T, server *harness.Consul, n string) string {
	t.Helper()
	pair := stored(t, server.Admin, n)
	if pair == nil || pair.Session == "" {
		t.Fatalf("%s is not held: %v", n, pair)
	}
	return pair.Session
}

// ends waits until a watch has ended with kind, without a word of an outage.
func ends(t *testing.T, w *harness.WatchLog, kind error, within time.Duration) {
	t.Helper()
	late := time.NewTimer(within)
	defer late.Stop()
	select {
	case <-w.Ended():
		mustBe(t, w.End(), kind)
	case <-late.C:
		t.Errorf("the watch goes on after %v: %q", within, w.All())
	}
	if slices.Contains(w.All(), "down") {
		t.Errorf("the watch spoke of an outage: %q", w.All())
	}
}

// lostBy waits until a lease is gone, at its deadline at the latest.
func lostBy(t *testing.T, l naming.Lease) {
	t.Helper()
	late := time.NewTimer(time.Until(l.Deadline()) + slack)
	defer late.Stop()
	select {
	case <-l.Done():
	case <-late.C:
		t.Errorf("the lease lives on %v after its deadline", time.Since(l.Deadline()))
	}
}

func TestTokenThatTheServerDoesNotKnow(t *testing.T) {
	t.Parallel()
	server := start(t)
	good := config(t, server.ConsulAccess, "alice")
	for what, change := range map[string]func(*consul.Config){
		"unknown": func(c *consul.Config) { c.Token = consul.NewSecret(uuid.NewString()) },
		"no UUID": func(c *consul.Config) { c.Token = consul.NewSecret("guess") },
		"none by a function": func(c *consul.Config) {
			c.Token, c.TokenFunc = consul.Secret{}, func(context.Context) (consul.Secret, error) { return consul.Secret{}, nil }
		},
	} {
		t.Run(what, func(t *testing.T) {
			cfg := good
			change(&cfg)
			refuses(t, cfg, naming.ErrUnauthenticated)
		})
	}

	// The anonymous token may read here, so that a token which is forgotten on some
	// path would not be noticed by the refusal: it has to be noticed before.
	t.Run("a function that gives none later", func(t *testing.T) {
		var token atomic.Pointer[consul.Secret]
		secret := good.Token
		token.Store(&secret)
		cfg := good
		cfg.Token, cfg.TokenFunc = consul.Secret{}, func(context.Context) (consul.Secret, error) { return *token.Load(), nil }
		recorder := harness.NewHTTPRecorder(t, server.CA, server.Address)
		cfg.Addresses = []string{recorder.URL()}
		b := open(t, cfg)
		l := lease(t, b)
		token.Store(&consul.Secret{})
		recorder.Forget()
		_, err := b.Get(t.Context(), name(t, "a.x"))
		mustBe(t, err, naming.ErrUnauthenticated)
		_, err = l.Claim(t.Context(), name(t, "a.x"), nil, 0)
		mustBe(t, err, naming.ErrUnauthenticated)
		for _, request := range recorder.Requests() {
			if request.Token == "" {
				t.Errorf("sent without a token: %s %s", request.Method, request.Path)
			}
		}
	})
}

// A token that is deleted: everything is refused at once, the lease ends within
// its TTL, the name is free within 2 x TTL, and no watch goes on.
func TestThreat33TokenDeleted(t *testing.T) {
	t.Parallel()
	server := start(t)
	token := principal(t, server.ConsulAccess, "alice", rights(t, "alice"))
	b := open(t, configWith(t, server.ConsulAccess, "alice", token))
	bob := harness.Watch(t, openAs(t, server.ConsulAccess, "bob"), scope(t, "a.x"))
	watches := []*harness.WatchLog{
		harness.Watch(t, b, scope(t, "a.x")), harness.Watch(t, b, scope(t, "a.quiet")),
		harness.Watch(t, b, scope(t, "a.")), harness.Watch(t, b, naming.All()),
	}
	for _, w := range append(watches, bob) {
		w.Wait("synced", 1, 5*time.Second)
	}
	l := lease(t, b)
	rev := claim(t, l, "a.x", "1")
	bob.Wait("put a.x=1 held=true", 1, 2*time.Second)

	server.RevokeToken(t, token)
	revoked := time.Now()
	_, err := l.Claim(t.Context(), name(t, "a.y"), nil, 0)
	mustBe(t, err, naming.ErrUnauthenticated)
	_, err = l.Update(t.Context(), name(t, "a.x"), nil, rev)
	mustBe(t, err, naming.ErrUnauthenticated)
	_, err = b.Get(t.Context(), name(t, "a.x"))
	mustBe(t, err, naming.ErrUnauthenticated)
	_, err = b.WhoAmI(t.Context())
	mustBe(t, err, naming.ErrUnauthenticated)
	_, err = b.Lease(t.Context(), 0)
	mustBe(t, err, naming.ErrUnauthenticated)
	if took := time.Since(revoked); took > time.Second {
		t.Errorf("the refusals took %v, want them at once", took)
	}
	lostBy(t, l)
	if took := time.Since(revoked); took > ttl+slack {
		t.Errorf("the lease was lost after %v", took)
	}
	freed := bob.Wait("delete a.x", 1, 2*ttl+slack)
	if took := freed.Sub(revoked); took > 2*ttl+slack {
		t.Errorf("the name was free after %v, want %v", took, 2*ttl+slack)
	}
	for _, w := range watches {
		ends(t, w, naming.ErrUnauthenticated, time.Minute-time.Since(revoked))
	}
	t.Logf("the watches have ended %v after the revocation", time.Since(revoked))
}

// Rights that are taken away: writes are refused at once, and a query that waits
// goes on until its wait is over, because its token is looked at when it begins.
func TestThreat33RightsTaken(t *testing.T) {
	t.Parallel()
	server := start(t)
	b := openAs(t, server.ConsulAccess, "alice")
	quiet, family := harness.Watch(t, b, scope(t, "a.quiet")), harness.Watch(t, b, scope(t, "b."))
	for _, w := range []*harness.WatchLog{quiet, family} {
		w.Wait("synced", 1, 5*time.Second)
	}
	l := lease(t, b)
	claim(t, l, "a.x", "1")
	server.Policy(t, node("alice"), `key "elsewhere" { policy = "read" }`)
	taken := time.Now()
	_, err := l.Claim(t.Context(), name(t, "a.y"), nil, 0)
	mustBe(t, err, naming.ErrDenied)
	_, err = b.Get(t.Context(), name(t, "a.x"))
	mustBe(t, err, naming.ErrDenied)
	_, err = b.Lease(t.Context(), 0)
	mustBe(t, err, naming.ErrDenied)
	lostBy(t, l)
	eventually(t, 2*ttl+slack, "the name is free", func() bool { return stored(t, server.Admin, "a.x") == nil })
	for _, w := range []*harness.WatchLog{family, quiet} {
		ends(t, w, naming.ErrDenied, time.Minute-time.Since(taken))
	}
	t.Logf("the watches have ended %v after the rights were taken", time.Since(taken))
}

// A token that is replaced: the lease lives on, with the same session, and the
// watches see everything, also what happens while no token is valid.
func TestTokenRotation(t *testing.T) {
	t.Parallel()
	server := start(t)
	principal(t, server.ConsulAccess, "alice", rights(t, "alice"))
	for _, test := range []struct {
		name    string
		file    bool
		deleted time.Duration // when the old token is, counted from the new one's arrival
	}{
		{"file-after", true, time.Second},
		{"file-before", true, -time.Second},
		{"func-after", false, time.Second},
		{"func-before", false, -time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			before, after := server.Token(t, node("alice")), server.Token(t, node("alice"))
			cfg := configWith(t, server.ConsulAccess, "alice", "")
			recorder := harness.NewHTTPRecorder(t, server.CA, server.Address)
			cfg.Addresses = []string{recorder.URL()}
			replaceable := byFunc
			if test.file {
				replaceable = byFile
			}
			swap := replaceable(t, &cfg, before, after)
			b := open(t, cfg)
			l := lease(t, b)
			mine, other := "a."+test.name, "shared."+test.name
			rev := claim(t, l, mine, "1")
			session := sessionOf(t, server, mine)
			watches := []*harness.WatchLog{
				harness.Watch(t, b, scope(t, mine)), harness.Watch(t, b, scope(t, other)), harness.Watch(t, b, naming.All()),
			}
			for _, w := range watches {
				w.Wait("synced", 1, 5*time.Second)
			}

			if test.deleted < 0 {
				server.RevokeToken(t, before)
				revoked := time.Now()
				_, err := b.Get(t.Context(), name(t, mine))
				mustBe(t, err, naming.ErrUnauthenticated)
				put(t, server.Admin, key(other), "between")
				<-time.After(-test.deleted)
				eventually(t, 2*time.Second, "the watches' question for the token is refused", func() bool {
					return slices.ContainsFunc(recorder.Requests(), func(r harness.RecordedRequest) bool {
						return r.Path == "/v1/acl/token/self" && r.Start.After(revoked) && r.Status == http.StatusForbidden
					})
				})
				swap()
			} else {
				swap()
				put(t, server.Admin, key(other), "between")
				<-time.After(test.deleted)
				server.RevokeToken(t, before)
			}
			swapped := time.Now()

			rev, err := l.Update(t.Context(), name(t, mine), []byte("2"), rev)
			if err != nil {
				t.Fatal(err)
			}
			for i, w := range watches {
				if i != 1 {
					w.Wait("put "+mine+"=2 held=true", 1, 5*time.Second)
				}
				if i != 0 {
					w.Wait("put "+other+"=between held=false", 1, 5*time.Second)
				}
			}
			eventually(t, 2*ttl, "renewals by the new token", func() bool { return l.Deadline().After(swapped.Add(ttl + ttl/2)) })
			put(t, server.Admin, key(other), "later")
			watches[1].Wait("put "+other+"=later held=false", 1, 5*time.Second)
			if _, err := l.Update(t.Context(), name(t, mine), []byte("3"), rev); err != nil {
				t.Error(err)
			}
			if got := sessionOf(t, server, mine); got != session {
				t.Errorf("another session: %s, want %s", got, session)
			}
			for _, w := range watches {
				if err := w.End(); err != nil || slices.Contains(w.All(), "down") {
					t.Errorf("the watch saw %q, %v", w.All(), err)
				}
			}
			for _, request := range recorder.Requests() {
				if request.Token != before && request.Token != after || request.Start.After(swapped.Add(slack)) && request.Token != after {
					t.Errorf("%s %s with another token than the one of that time", request.Method, request.Path)
				}
			}
		})
	}
}

// byFile lets cfg read its token from a file, which swap replaces as Kubernetes
// does.
func byFile(t *testing.T, cfg *consul.Config, before, after string) (swap func()) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	write := func(to, token string) {
		if err := errors.Join(os.WriteFile(to, []byte(token+"\n"), 0o600), os.Rename(to, path)); err != nil {
			t.Fatal(err)
		}
	}
	write(path+".first", before)
	cfg.Token, cfg.TokenFile = consul.Secret{}, path
	return func() { write(path+".next", after) }
}

func byFunc(t *testing.T, cfg *consul.Config, before, after string) (swap func()) {
	t.Helper()
	var token atomic.Pointer[string]
	token.Store(&before)
	cfg.Token, cfg.TokenFunc = consul.Secret{}, func(context.Context) (consul.Secret, error) { return consul.NewSecret(*token.Load()), nil }
	return func() { token.Store(&after) }
}
