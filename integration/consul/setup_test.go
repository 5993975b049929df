// Package consul_test runs the Consul driver against real servers.
package consul_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/rs/zerolog"

	"github.com/seed-6593ebad/skywarden/backends/backendtest"
	"github.com/seed-6593ebad/skywarden/backends/consul"
	"github.com/seed-6593ebad/skywarden/integration/harness"
	"github.com/seed-6593ebad/skywarden/naming"
)

func TestMain(m *testing.M) { harness.Main(m) }

// Words that every test uses.
var (
	name   = harness.Name
	scope  = harness.Scope
	mustBe = harness.MustBe
)

const root = "skywarden"

// ttl is what the tests ask leases for; the servers of the tests take it.
const ttl = 3 * time.Second

// slack is for a machine with two cores that runs other tests beside.
const slack = time.Second

func key(name string) string { return root + "/names/" + strings.ReplaceAll(name, ".", "/") }

// principal makes a principal on the servers, with its own node, policy and
// token, and gives the token.
func principal(tb testing.TB, servers *harness.ConsulAccess, who string, rights backendtest.Rights) string {
	tb.Helper()
	var rules strings.Builder
	for _, sc := range rights.Claim {
		if _, only := sc.Name(); only {
			fmt.Fprintf(&rules, "key %q { policy = \"write\" }\n", key(sc.String()))
		} else {
			fmt.Fprintf(&rules, "key_prefix %q { policy = \"write\" }\n", key(sc.String()))
		}
	}
	for range rights.Read { // all names or nothing
		fmt.Fprintf(&rules, "key_prefix %q { policy = \"read\" }\n", root+"/names/")
	}
	if len(rights.Claim) > 0 {
		servers.Node(tb, node(who))
		fmt.Fprintf(&rules, "session %q { policy = \"write\" }\n", node(who))
	}
	if rules.Len() == 0 {
		rules.WriteString("key \"elsewhere\" { policy = \"read\" }\n") // a policy may not be empty
	}
	servers.Policy(tb, node(who), rules.String())
	return servers.Token(tb, node(who))
}

func node(who string) string { return root + "-" + who }

// rights of the usual principals: alice and bob each own a family and share
// another, and both read everything; carol may do nothing.
func rights(tb testing.TB, who string) backendtest.Rights {
	tb.Helper()
	r := backendtest.Rights{Read: []naming.Scope{naming.All()}}
	switch who {
	case "alice":
		r.Claim = []naming.Scope{scope(tb, "a."), scope(tb, "a"), scope(tb, "shared.")}
	case "bob":
		r.Claim = []naming.Scope{scope(tb, "b."), scope(tb, "shared.")}
	default:
		return backendtest.Rights{}
	}
	return r
}

// start runs a server.
func start(t *testing.T) *harness.Consul {
	t.Helper()
	return harness.StartConsul(t, harness.ConsulOptions{})
}

// config is that of a principal with a token of its own.
func config(t *testing.T, servers *harness.ConsulAccess, who string) consul.Config {
	t.Helper()
	return configWith(t, servers, who, principal(t, servers, who, rights(t, who)))
}

func configWith(tb testing.TB, servers *harness.ConsulAccess, who, token string) consul.Config {
	tb.Helper()
	return consul.Config{
		Addresses: servers.Addresses(),
		TLS:       consul.TLS{CAFile: servers.CAFile(tb)},
		Principal: who, Token: consul.NewSecret(token),
		MinTTL: ttl, DefaultTTL: ttl,
		Logger: zerolog.New(zerolog.NewTestWriter(tb)).With().Timestamp().Str("principal", who).Logger(),
	}
}

func open(t *testing.T, cfg consul.Config) *consul.Backend {
	t.Helper()
	b, err := consul.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func openAs(t *testing.T, servers *harness.ConsulAccess, who string) *consul.Backend {
	t.Helper()
	return open(t, config(t, servers, who))
}

func lease(t *testing.T, b naming.Backend) naming.Lease {
	t.Helper()
	l, err := b.Lease(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func claim(t *testing.T, l naming.Lease, n, value string) naming.Revision {
	t.Helper()
	rev, err := l.Claim(t.Context(), name(t, n), []byte(value), 0)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

// eventually repeats ok until it is true.
func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	late := time.NewTimer(within)
	defer late.Stop()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for !ok() {
		select {
		case <-again.C:
		case <-late.C:
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

// stored is what an administrator sees under a name, nil if there is nothing.
func stored(t *testing.T, admin *api.Client, n string) *api.KVPair {
	t.Helper()
	pair, _, err := admin.KV().Get(key(n), (&api.QueryOptions{RequireConsistent: true}).WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	return pair
}
