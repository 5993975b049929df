package consul_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/rs/zerolog"

	"github.com/seed-6593ebad/skywarden/backends/consul"
	"github.com/seed-6593ebad/skywarden/integration/harness"
	"github.com/seed-6593ebad/skywarden/naming"
)

// adminConfig is that of the administrator, with a new directory for tokens.
func adminConfig(t *testing.T, server *harness.Consul) consul.AdminConfig {
	t.Helper()
	return consul.AdminConfig{
		Config: consul.Config{
			Addresses: server.Addresses(), TLS: consul.TLS{CAFile: server.CAFile(t)},
			Token: consul.NewSecret(server.ManagementToken), Logger: adminLog(t),
		},
		TokenDir: filepath.Join(t.TempDir(), "tokens"),
	}
}

func adminLog(t *testing.T) zerolog.Logger {
	return zerolog.New(zerolog.NewTestWriter(t)).With().Timestamp().Logger()
}

func adminOpen(t *testing.T, cfg consul.AdminConfig) *consul.Admin {
	t.Helper()
	a, err := consul.OpenAdmin(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

// adminPrincipal opens the backend of a principal with its token file.
func adminPrincipal(t *testing.T, cfg consul.AdminConfig, principal string) *consul.Backend {
	t.Helper()
	c := cfg.Config
	c.Principal, c.Token, c.TokenFile = principal, consul.Secret{}, filepath.Join(cfg.TokenDir, principal+".token")
	b, err := consul.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// adminSecret is what a token file holds.
func adminSecret(t *testing.T, cfg consul.AdminConfig, principal string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(cfg.TokenDir, principal+".token"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// adminToken is the token whose secret is in the principal's file.
func adminToken(t *testing.T, server *harness.Consul, cfg consul.AdminConfig, principal string) *api.ACLToken {
	t.Helper()
	token, _, err := server.Admin.ACL().TokenReadSelf(&api.QueryOptions{Token: adminSecret(t, cfg, principal)})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// adminMust wants nil from levers of the administrator's client.
func adminMust(t *testing.T, _ any, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// adminImpossible is a revision that no entry has: such a claim changes nothing.
const adminImpossible naming.Revision = 1 << 62

// adminRights compares what the server lets a principal do with each name with
// what its grant says.
func adminRights(t *testing.T, b *consul.Backend, g naming.Grant, names []string) {
	t.Helper()
	claims := slices.ContainsFunc(g.Simplify().Permissions, func(p naming.Permission) bool { return p.Access == naming.MayClaim })
	l, err := b.Lease(t.Context(), 0)
	switch {
	case claims && err != nil:
		t.Fatalf("%v has no lease: %v", g, err)
	case !claims && !errors.Is(err, naming.ErrDenied):
		t.Errorf("%v may claim nothing and gets a lease: %v", g, err)
	}
	for _, s := range names {
		n, want := harness.Name(t, s), g.Access(harness.Name(t, s))
		_, err := b.Get(t.Context(), n)
		if mayRead := errors.Is(err, naming.ErrNotFound); mayRead != (want >= naming.MayRead) || !mayRead && !errors.Is(err, naming.ErrDenied) {
			t.Errorf("%v reads %s: %v, want %v", g, s, err, want)
		}
		if !claims {
			continue
		}
		_, err = l.Claim(t.Context(), n, nil, adminImpossible)
		if kind := map[bool]error{true: naming.ErrTaken, false: naming.ErrDenied}[want == naming.MayClaim]; !errors.Is(err, kind) {
			t.Errorf("%v claims %s: %v, want %v", g, s, err, want)
		}
	}
	if claims {
		if err := l.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// From an empty server to one on which everybody has exactly what the grants
// say. Once more changes nothing, and no secret is ever told.
func TestProvision(t *testing.T) {
	server := harness.StartConsul(t, harness.ConsulOptions{})
	grants := []naming.Grant{
		harness.GrantOf(t, "alice", "read ", "claim a.", "none a.secret", "claim a"),
		harness.GrantOf(t, "bob", "read ", "claim b."),
		harness.GrantOf(t, "dora", "claim d"),
		harness.GrantOf(t, "reader", "read "),
	}
	cfg := adminConfig(t, server)
	var log bytes.Buffer
	cfg.Logger = zerolog.New(zerolog.SyncWriter(&log))
	a := adminOpen(t, cfg)
	changes := harness.Plan(t, a, false, grants...)
	harness.WantPlan(t, changes,
		`create policy skywarden-alice: write key "skywarden/names/a", deny key "skywarden/names/a/secret", read key_prefix "skywarden/names/", write key_prefix "skywarden/names/a/", write session "skywarden-alice"`,
		"create node skywarden-alice: ",
		"create token of alice: with the policy skywarden-alice and nothing else; its secret goes to "+filepath.Join(cfg.TokenDir, "alice.token"),
		"create policy skywarden-bob: ", "create node skywarden-bob: ", "create token of bob: ",
		"create policy skywarden-dora: ", "create node skywarden-dora: ", "create token of dora: ",
		"create policy skywarden-reader: ", "create token of reader: ",
	)
	if _, err := os.Stat(cfg.TokenDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Plan made %s: %v", cfg.TokenDir, err)
	}
	harness.Apply(t, changes)
	harness.WantPlan(t, harness.Plan(t, a, true, grants...))
	harness.Apply(t, changes) // a repetition harms nobody
	harness.WantPlan(t, harness.Plan(t, a, true, grants...))

	text := log.String()
	for _, c := range changes {
		text += fmt.Sprintf("%+v", c)
		c.Apply = nil
		encoded, err := json.Marshal(c)
		adminMust(t, nil, err)
		text += string(encoded)
	}
	names := []string{"a", "a.x", "a.secre", "a.secret", "a.secret-x", "a.secret.x", "a2", "b", "b.x", "b2.x", "d", "d.x", "d-x", "x"}
	for _, g := range grants {
		if strings.Contains(text, adminSecret(t, cfg, g.Principal)) {
			t.Errorf("the secret of %s is told", g.Principal)
		}
		if info, err := os.Stat(filepath.Join(cfg.TokenDir, g.Principal+".token")); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
			t.Errorf("the file of %s: %v, %v", g.Principal, info, err)
		}
		if token := adminToken(t, server, cfg, g.Principal); token.Local || len(token.Policies) != 1 || token.Policies[0].Name != "skywarden-"+g.Principal {
			t.Errorf("the token of %s: %+v", g.Principal, token)
		}
		adminRights(t, adminPrincipal(t, cfg, g.Principal), g, names)
	}
	if info, err := os.Stat(cfg.TokenDir); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o700 {
		t.Errorf("the directory: %v, %v", info, err)
	}
	if strings.Contains(text, server.ManagementToken) {
		t.Error("the management token is told")
	}
}

// Whatever the grants are, Consul's choice of the closest rule is theirs.
func TestProvisionProperty(t *testing.T) {
	server := harness.StartConsul(t, harness.ConsulOptions{})
	cfg := adminConfig(t, server)
	a := adminOpen(t, cfg)
	scopes := []string{"", "bank", "bank.", "bank.x", "bank.x.", "bank.x.y", "bank2", "bank2.", "a.", "a.b", "a.b.", "a.b.c."}
	names := []string{"bank", "bank2", "bank-2", "bank.x", "bank.x2", "bank.x.y", "bank.x.y.z", "bank.xx.y", "bank2.x", "a", "a.b", "a.b.c", "a.b.c.d", "a.bb", "z"}
	random := rand.New(rand.NewPCG(20, 1)) // can be repeated
	for round := range 12 {
		var grants []naming.Grant
		for _, principal := range []string{"p", "q", "r"} {
			var permissions []string
			for _, s := range scopes {
				if word := []string{"none", "read", "claim", ""}[random.IntN(4)]; word != "" {
					permissions = append(permissions, word+" "+s)
				}
			}
			random.Shuffle(len(permissions), func(i, j int) { permissions[i], permissions[j] = permissions[j], permissions[i] })
			grants = append(grants, harness.GrantOf(t, principal, permissions...))
		}
		harness.Apply(t, harness.Plan(t, a, false, grants...))
		harness.WantPlan(t, harness.Plan(t, a, false, grants...))
		for _, g := range grants {
			adminRights(t, adminPrincipal(t, cfg, g.Principal), g, names)
		}
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
}

// What somebody changed by hand is told and repaired, and nothing else is.
func TestProvisionDrift(t *testing.T) {
	server := harness.StartConsul(t, harness.ConsulOptions{})
	acl, catalog := server.Admin.ACL(), server.Admin.Catalog()
	grants := []naming.Grant{harness.GrantOf(t, "alice", "read ", "claim a."), harness.GrantOf(t, "bob", "read ", "claim b.")}
	cfg := adminConfig(t, server)
	a := adminOpen(t, cfg)
	harness.Apply(t, harness.Plan(t, a, false, grants...))
	harness.WantPlan(t, harness.Plan(t, a, true, grants...))
	other := server.Token(t) // of somebody else
	server.Policy(t, "skywarden-else", `key "x" { policy = "read" }`)
	server.Node(t, "skywarden-else")
	file := filepath.Join(cfg.TokenDir, "alice.token")
	original := adminToken(t, server, cfg, "alice")
	update := func(change func(*api.ACLToken)) {
		token, _, err := acl.TokenRead(original.AccessorID, nil)
		adminMust(t, nil, err)
		change(token)
		_, _, err = acl.TokenUpdate(token, nil)
		adminMust(t, nil, err)
	}
	for _, test := range []struct {
		title string
		drift func(t *testing.T)
		want  []string
		prune bool
	}{
		{
			"another layout of the same policy", func(t *testing.T) {
				server.Policy(t, "skywarden-alice", "# by hand\nsession \"skywarden-alice\" {\n  policy = \"write\"\n}\nkey_prefix \"skywarden/names/\" { policy = \"read\" }\nkey_prefix \"skywarden/names/a/\" { policy = \"write\" }")
			},
			nil, false,
		},
		{
			"a rule too many", func(t *testing.T) {
				server.Policy(t, "skywarden-alice", `session_prefix "" { policy = "write" } session "skywarden-alice" { policy = "write" } key_prefix "skywarden/names/" { policy = "read" } key_prefix "skywarden/names/a/" { policy = "write" }`)
			},
			[]string{`change policy skywarden-alice: take write session_prefix "", which is too much`},
			false,
		},
		{
			"a rule is missing", func(t *testing.T) {
				server.Policy(t, "skywarden-alice", `session "skywarden-alice" { policy = "write" } key_prefix "skywarden/names/" { policy = "write" }`)
			},
			[]string{`change policy skywarden-alice: give read key_prefix "skywarden/names/", which is write; give write key_prefix "skywarden/names/a/", which is missing`},
			false,
		},
		{
			"the policy is something else", func(t *testing.T) { server.Policy(t, "skywarden-alice", `acl = "write"`) },
			[]string{"change policy skywarden-alice: its rules are not what skywarden writes"},
			false,
		},
		{
			"the policy is gone", func(t *testing.T) {
				policy, _, err := acl.PolicyReadByName("skywarden-alice", nil)
				adminMust(t, nil, err)
				_, err = acl.PolicyDelete(policy.ID, nil)
				adminMust(t, nil, err)
			},
			[]string{"create policy skywarden-alice: ", "change token of alice: token " + original.AccessorID + ": give it the policy skywarden-alice and nothing else; it has nothing"},
			false,
		},
		{
			"the token has more policies", func(t *testing.T) {
				update(func(token *api.ACLToken) {
					token.Policies = append(token.Policies, &api.ACLLink{Name: "skywarden-bob"}, &api.ACLLink{Name: "global-management"})
				})
			},
			[]string{"change token of alice: token " + original.AccessorID + ": give it the policy skywarden-alice and nothing else; it has policy "},
			false,
		},
		{
			"the token has identities", func(t *testing.T) {
				update(func(token *api.ACLToken) {
					token.ServiceIdentities = []*api.ACLServiceIdentity{{ServiceName: "web"}}
					token.NodeIdentities = []*api.ACLNodeIdentity{{NodeName: "skywarden-bob", Datacenter: "dc1"}}
				})
			},
			[]string{"change token of alice: token " + original.AccessorID + ": give it the policy skywarden-alice and nothing else; it has policy skywarden-alice, service identity web, node identity skywarden-bob"},
			false,
		},
		{
			"the token has a role", func(t *testing.T) {
				_, _, err := acl.RoleCreate(&api.ACLRole{Name: "boss", Policies: []*api.ACLLink{{Name: "skywarden-bob"}}}, nil)
				adminMust(t, nil, err)
				update(func(token *api.ACLToken) { token.Roles = []*api.ACLLink{{Name: "boss"}} })
			},
			[]string{"change token of alice: token " + original.AccessorID + ": give it the policy skywarden-alice and nothing else; it has policy skywarden-alice, role boss"},
			false,
		},
		{
			"the description of the token", func(t *testing.T) { update(func(token *api.ACLToken) { token.Description = "by hand" }) },
			nil, false,
		},
		{
			"the token file is gone", func(t *testing.T) { adminMust(t, nil, os.Remove(file)) },
			[]string{"create token file of alice: " + file + ", with the secret of token " + original.AccessorID},
			false,
		},
		{
			"the token file is read by others", func(t *testing.T) { adminMust(t, nil, os.Chmod(file, 0o644)) },
			[]string{"change token file of alice: " + file + ": nobody but its owner may have access: its mode is 0644"},
			false,
		},
		{
			"the token file has a secret that nobody knows", func(t *testing.T) { adminMust(t, nil, os.WriteFile(file, []byte("hunter2"), 0o600)) },
			[]string{"change token file of alice: " + file + ": write the secret of token " + original.AccessorID + ", in the place of a secret that this Consul does not know"},
			false,
		},
		{
			"the token file has somebody else's secret", func(t *testing.T) { adminMust(t, nil, os.WriteFile(file, []byte(other), 0o600)) },
			[]string{"change token file of alice: " + file + ": write the secret of token " + original.AccessorID + ", in the place of the secret of token "},
			false,
		},
		{
			"the token is gone", func(t *testing.T) { server.RevokeToken(t, adminSecret(t, cfg, "alice")) },
			[]string{"create token of alice: with the policy skywarden-alice and nothing else; its secret goes to " + file + ", in the place of a secret that this Consul does not know"},
			false,
		},
		{
			"the node is gone", func(t *testing.T) {
				_, err := catalog.Deregister(&api.CatalogDeregistration{Node: "skywarden-bob"}, nil)
				adminMust(t, nil, err)
			},
			[]string{"create node skywarden-bob: "},
			false,
		},
		{
			"principals who are not in the list", func(t *testing.T) {
				harness.Apply(t, harness.Plan(t, a, false, harness.GrantOf(t, "gone", "claim gone")))
			},
			[]string{"delete token of gone: ", "delete policy skywarden-gone: ", "delete node skywarden-gone: "},
			true,
		},
	} {
		t.Run(test.title, func(t *testing.T) {
			test.drift(t)
			if test.prune {
				harness.WantPlan(t, harness.Plan(t, a, false, grants...))
			}
			changes := harness.Plan(t, a, test.prune, grants...)
			harness.WantPlan(t, changes, test.want...)
			for _, c := range changes {
				for _, secret := range []string{other, original.SecretID, "hunter2", server.ManagementToken} {
					if strings.Contains(fmt.Sprintf("%+v", c), secret) {
						t.Errorf("a secret is told: %+v", c)
					}
				}
			}
			harness.Apply(t, changes)
			harness.Apply(t, changes)
			harness.WantPlan(t, harness.Plan(t, a, true, grants...))
			adminRights(t, adminPrincipal(t, cfg, "alice"), grants[0], []string{"a.x", "b.x"})
			adminRights(t, adminPrincipal(t, cfg, "bob"), grants[1], []string{"a.x", "b.x"})
		})
	}
	if _, err := os.Stat(filepath.Join(cfg.TokenDir, "gone.token")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file of a principal who is gone: %v", err)
	}
	// What is none of our business is as before.
	policy, _, err := acl.PolicyReadByName("skywarden-else", nil)
	if err != nil || policy == nil || policy.Rules != `key "x" { policy = "read" }` {
		t.Errorf("skywarden-else: %+v, %v", policy, err)
	}
	if node, _, err := catalog.Node("skywarden-else", nil); err != nil || node == nil {
		t.Errorf("the node skywarden-else: %v, %v", node, err)
	}
	if _, _, err := acl.TokenReadSelf(&api.QueryOptions{Token: other}); err != nil {
		t.Error(err)
	}
}

// A token is replaced without a pause: a second one, marked as the principal's,
// is as good as the first, also after the first is deleted.
func TestProvisionReplacedToken(t *testing.T) {
	server := harness.StartConsul(t, harness.ConsulOptions{})
	cfg, grant := adminConfig(t, server), harness.GrantOf(t, "alice", "read ", "claim a.")
	a := adminOpen(t, cfg)
	harness.Apply(t, harness.Plan(t, a, false, grant))
	first := adminToken(t, server, cfg, "alice")
	second, _, err := server.Admin.ACL().TokenClone(first.AccessorID, first.Description, nil)
	adminMust(t, nil, err)
	harness.WantPlan(t, harness.Plan(t, a, true, grant))
	adminMust(t, nil, os.WriteFile(filepath.Join(cfg.TokenDir, "alice.token"), []byte(second.SecretID), 0o600))
	harness.WantPlan(t, harness.Plan(t, a, true, grant))
	server.RevokeToken(t, first.SecretID)
	harness.WantPlan(t, harness.Plan(t, a, true, grant))
	adminRights(t, adminPrincipal(t, cfg, "alice"), grant, []string{"a.x", "b"})
	harness.Apply(t, harness.Plan(t, a, true))
	harness.WantPlan(t, harness.Plan(t, a, true))
	if _, _, err := server.Admin.ACL().TokenReadSelf(&api.QueryOptions{Token: second.SecretID}); err == nil {
		t.Error("a token of a pruned principal is left")
	}
}

// An answer that is lost, at whatever point, is repaired by applying again, and
// leaves nothing that is too much.
func TestProvisionLostAnswers(t *testing.T) {
	server := harness.StartConsul(t, harness.ConsulOptions{})
	grant := harness.GrantOf(t, "alice", "read ", "claim a.")
	for _, path := range []string{"/v1/acl/policy", "/v1/catalog/register", "/v1/acl/token"} {
		t.Run(path, func(t *testing.T) {
			recorder := harness.NewHTTPRecorder(t, server.CA, server.Address)
			cfg := adminConfig(t, server)
			cfg.Addresses = []string{recorder.URL()}
			a := adminOpen(t, cfg)
			dropped := false
			var mu sync.Mutex
			recorder.DropResponse(func(r *http.Request) bool {
				mu.Lock()
				defer mu.Unlock()
				drop := !dropped && r.Method == http.MethodPut && r.URL.Path == path
				dropped = dropped || drop
				return drop
			})
			harness.Apply(t, harness.Plan(t, a, false, grant))
			if !dropped {
				t.Error("no answer was lost: this tests nothing")
			}
			harness.WantPlan(t, harness.Plan(t, a, true, grant))
			adminRights(t, adminPrincipal(t, cfg, "alice"), grant, []string{"a.x", "b"})
			tokens, _, err := server.Admin.ACL().TokenList(nil)
			adminMust(t, nil, err)
			if len(tokens) != 3 { // the administrator's, the anonymous one, and alice's
				t.Errorf("%d tokens", len(tokens))
			}
			harness.Apply(t, harness.Plan(t, a, true))
		})
	}
}

// Between two principals there is nothing: neither can end the other's sessions,
// nor open one on its node.
func TestProvisionSessionsApart(t *testing.T) {
	server := harness.StartConsul(t, harness.ConsulOptions{})
	cfg := adminConfig(t, server)
	a := adminOpen(t, cfg)
	harness.Apply(t, harness.Plan(t, a, false, harness.GrantOf(t, "alice", "read ", "claim a."), harness.GrantOf(t, "bob", "read ", "claim b.")))
	alice := adminPrincipal(t, cfg, "alice")
	l, err := alice.Lease(t.Context(), 0)
	adminMust(t, nil, err)
	_, err = l.Claim(t.Context(), harness.Name(t, "a.x"), []byte("1"), 0)
	adminMust(t, nil, err)
	pair, _, err := server.Admin.KV().Get("skywarden/names/a/x", nil)
	if err != nil || pair == nil || pair.Session == "" {
		t.Fatalf("%+v, %v", pair, err)
	}
	bob := server.Client(t, adminSecret(t, cfg, "bob"))
	if _, err := bob.Session().Destroy(pair.Session, nil); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("bob destroys the session of alice: %v", err)
	}
	if _, _, err := bob.Session().CreateNoChecks(&api.SessionEntry{Node: "skywarden-alice", TTL: "30s"}, nil); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("bob opens a session on the node of alice: %v", err)
	}
	if _, err := bob.Catalog().Deregister(&api.CatalogDeregistration{Node: "skywarden-alice"}, nil); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("bob removes the node of alice: %v", err)
	}
	if _, err := bob.KV().DeleteTree("skywarden/names/", nil); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("bob deletes everything: %v", err)
	}
	if entry, err := alice.Get(t.Context(), harness.Name(t, "a.x")); err != nil || !entry.Held {
		t.Errorf("after that: %+v, %v", entry, err)
	}
	// The administrator can: who is not in the list any more is out at once.
	harness.Apply(t, harness.Plan(t, a, true, harness.GrantOf(t, "bob", "read ", "claim b.")))
	if pair, _, err := server.Admin.KV().Get("skywarden/names/a/x", nil); err != nil || pair != nil {
		t.Errorf("the name of a principal who is gone: %+v, %v", pair, err)
	}
}

// A deletion of a whole tree needs the right to all of it: neither an exact rule
// nor one with exceptions gives that.
func TestProvisionTrees(t *testing.T) {
	server := harness.StartConsul(t, harness.ConsulOptions{})
	cfg := adminConfig(t, server)
	harness.Apply(t, harness.Plan(t, adminOpen(t, cfg), false, harness.GrantOf(t, "alice", "claim a", "claim b.", "none b.secret", "claim c.", "read c.x", "claim d.")))
	keys := []string{"a", "a/x", "a2", "b/secret", "b/x", "c/x", "c/y", "d/x", "d2"}
	for _, key := range keys {
		_, err := server.Admin.KV().Put(&api.KVPair{Key: "skywarden/names/" + key, Value: []byte("1")}, nil)
		adminMust(t, nil, err)
	}
	alice := server.Client(t, adminSecret(t, cfg, "alice")).KV()
	for prefix, may := range map[string]bool{"": false, "a": false, "a/": false, "b": false, "b/": false, "c/": false, "d": false, "d/": true} {
		_, err := alice.DeleteTree("skywarden/names/"+prefix, nil)
		if denied := err != nil && strings.Contains(err.Error(), "403"); denied == may || err != nil && !denied {
			t.Errorf("delete the tree %q: %v, allowed is %v", prefix, err, may)
		}
	}
	left, _, err := server.Admin.KV().Keys("skywarden/names/", "", nil)
	adminMust(t, nil, err)
	if want := len(keys) - 1; len(left) != want {
		t.Errorf("%d keys are left, want %d: %q", len(left), want, left)
	}
	// What is hidden is left out of a listing.
	seen, _, err := alice.List("skywarden/names/", nil)
	adminMust(t, nil, err)
	var names []string
	for _, pair := range seen {
		names = append(names, strings.TrimPrefix(pair.Key, "skywarden/names/"))
	}
	if want := []string{"a", "b/x", "c/x", "c/y"}; !slices.Equal(names, want) {
		t.Errorf("alice sees %q, want %q", names, want)
	}
}

// Two administrators at once do not get into each other's way.
func TestProvisionTwice(t *testing.T) {
	server := harness.StartConsul(t, harness.ConsulOptions{})
	grants := []naming.Grant{harness.GrantOf(t, "alice", "claim a."), harness.GrantOf(t, "bob", "claim b.")}
	var all [4]consul.AdminConfig
	var plans [len(all)][]naming.Change
	for i := range all {
		all[i] = adminConfig(t, server)
		plans[i] = harness.Plan(t, adminOpen(t, all[i]), false, grants...)
	}
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() {
			for _, c := range plans[i] {
				if err := c.Apply(t.Context()); err != nil {
					t.Errorf("%s %s: %v", c.Do, c.Object, err)
				}
			}
		})
	}
	wg.Wait()
	for _, cfg := range all {
		harness.WantPlan(t, harness.Plan(t, adminOpen(t, cfg), true, grants...))
		if adminSecret(t, cfg, "alice") != adminSecret(t, all[0], "alice") {
			t.Error("alice has two secrets")
		}
	}
}

// While a plan is applied nobody loses what he has before and after: an owner
// goes on claiming while its rights are put into another policy.
func TestProvisionDoesNotDisturbOwners(t *testing.T) {
	server := harness.StartConsul(t, harness.ConsulOptions{})
	cfg := adminConfig(t, server)
	a := adminOpen(t, cfg)
	harness.Apply(t, harness.Plan(t, a, false, harness.GrantOf(t, "alice", "claim a.", "claim b."), harness.GrantOf(t, "bob", "claim b.")))
	l, err := adminPrincipal(t, cfg, "alice").Lease(t.Context(), 0)
	adminMust(t, nil, err)
	ctx, stop := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			_, err := l.Claim(ctx, harness.Name(t, "a.y"), []byte("1"), 0)
			if err == nil {
				err = l.Release(ctx, harness.Name(t, "a.y"))
			}
			if err != nil && ctx.Err() == nil {
				failed <- err
				return
			}
		}
		failed <- nil
	}()
	for _, grants := range [][]naming.Grant{
		{harness.GrantOf(t, "alice", "read ", "claim a."), harness.GrantOf(t, "bob", "claim b.", "claim c")},
		{harness.GrantOf(t, "alice", "claim a.y"), harness.GrantOf(t, "carol", "read ")},
		{harness.GrantOf(t, "alice", "claim ")},
	} {
		harness.Apply(t, harness.Plan(t, a, true, grants...))
		harness.WantPlan(t, harness.Plan(t, a, true, grants...))
	}
	stop()
	if err := <-failed; err != nil {
		t.Errorf("the owner was disturbed: %v", err)
	}
}

func TestProvisionRefuses(t *testing.T) {
	server := harness.StartConsul(t, harness.ConsulOptions{})
	cfg := adminConfig(t, server)
	a := adminOpen(t, cfg)
	alice := harness.GrantOf(t, "alice", "claim a.")
	harness.Apply(t, harness.Plan(t, a, false, alice))
	denied := func(title, rules string) {
		t.Helper()
		server.Policy(t, title, rules)
		other := cfg
		other.Token = consul.NewSecret(server.Token(t, title))
		_, err := adminOpen(t, other).Plan(t.Context(), []naming.Grant{alice}, false)
		if !errors.Is(err, naming.ErrDenied) {
			t.Errorf("%s: got %v, want %v", title, err, naming.ErrDenied)
		}
	}
	denied("may-nothing", `key "x" { policy = "read" }`)
	denied("may-read-acls", `acl = "read" node_prefix "" { policy = "read" }`)

	insecure := func(title string, a *consul.Admin, want string, grants ...naming.Grant) {
		t.Helper()
		_, err := a.Plan(t.Context(), grants, false)
		if !errors.Is(err, naming.ErrInsecureConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %v with %q", title, err, naming.ErrInsecureConfig, want)
		}
	}
	insecure("names that differ in capitals", a, "capitals", alice, harness.GrantOf(t, "Alice", "claim b."))
	insecure("no name for Consul", a, "a b", harness.GrantOf(t, "a b", "claim b."))
	below := cfg
	below.Root = "skywarden/eu"
	harness.Apply(t, harness.Plan(t, adminOpen(t, below), false, harness.GrantOf(t, "zoe", "claim z")))
	insecure("what is called alike is of another root", a, `"zoe" below root "skywarden/eu"`, harness.GrantOf(t, "eu-zoe", "claim z"))
	harness.WantPlan(t, harness.Plan(t, a, true, alice)) // nor is it pruned
	machine := cfg
	machine.Root = "server"
	insecure("a machine's node", adminOpen(t, machine), "no virtual one", harness.GrantOf(t, "1", "claim a"))
	token, _, err := server.Admin.ACL().TokenReadSelf(&api.QueryOptions{Token: adminSecret(t, cfg, "alice")})
	adminMust(t, nil, err)
	token.Policies = append(token.Policies, &api.ACLLink{Name: "global-management"})
	_, _, err = server.Admin.ACL().TokenUpdate(token, nil)
	adminMust(t, nil, err)
	self := cfg
	self.Token = consul.NewSecret(adminSecret(t, cfg, "alice"))
	insecure("the administrator is a principal", adminOpen(t, self), "is the administrator's", alice)

	if _, err := consul.OpenAdmin(t.Context(), consul.AdminConfig{Config: consul.Config{Root: "/"}}); err == nil || !strings.Contains(err.Error(), "TokenDir") || !strings.Contains(err.Error(), "root") || strings.Contains(err.Error(), "principal \"") {
		t.Errorf("an empty configuration: %v", err)
	}
	adminMust(t, nil, os.Mkdir(filepath.Join(cfg.TokenDir, "bob.token"), 0o700))
	if _, err := a.Plan(t.Context(), []naming.Grant{harness.GrantOf(t, "bob", "claim b")}, false); err == nil || !strings.Contains(err.Error(), "bob.token") {
		t.Errorf("a token file that is a directory: %v", err)
	}
	server.Pause(t)
	begin := time.Now()
	if _, err = a.Plan(t.Context(), []naming.Grant{alice}, false); !errors.Is(err, naming.ErrUnavailable) {
		t.Errorf("a server that hangs: %v", err)
	}
	if took := time.Since(begin); took > 7*time.Second {
		t.Errorf("Plan of a server that hangs took %v", took)
	}
}

// What Render writes is what Plan makes: applied by somebody else, there is
// nothing to change but the tokens, which are made here as the script does.
func TestRender(t *testing.T) {
	server := harness.StartConsul(t, harness.ConsulOptions{})
	grants := []naming.Grant{harness.GrantOf(t, "alice", "read ", "claim a.", "none a.secret", "claim b"), harness.GrantOf(t, "reader", "read ")}
	files, err := consul.Render("prod/skywarden", grants)
	adminMust(t, nil, err)
	for _, f := range files {
		switch {
		case strings.HasPrefix(f.Name, "policy-"):
			principal := strings.TrimSuffix(strings.TrimPrefix(f.Name, "policy-"), ".hcl")
			server.Policy(t, "prod-skywarden-"+principal, string(f.Content))
		case strings.HasPrefix(f.Name, "node-"):
			_, err := server.Admin.Raw().Write("/v1/catalog/register", json.RawMessage(f.Content), nil, nil)
			adminMust(t, nil, err)
		}
	}
	cfg := adminConfig(t, server)
	cfg.Root = "prod/skywarden"
	a := adminOpen(t, cfg)
	changes := harness.Plan(t, a, true, grants...)
	harness.WantPlan(t, changes, "create token of alice: ", "create token of reader: ")
	harness.Apply(t, changes)
	for _, g := range grants {
		adminRights(t, adminPrincipal(t, cfg, g.Principal), g, []string{"a.x", "a.secret", "b", "b.x", "c"})
	}
}
