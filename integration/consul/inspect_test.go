package consul_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/seed-6593ebad/skywarden/backends/consul"
	"github.com/seed-6593ebad/skywarden/integration/harness"
	"github.com/seed-6593ebad/skywarden/naming"
)

// adminProvisioned is a server with alice, who claims, and reader, who does not.
func adminProvisioned(t *testing.T, o harness.ConsulOptions) (*harness.Consul, consul.AdminConfig) {
	t.Helper()
	server := harness.StartConsul(t, o)
	cfg := adminConfig(t, server)
	cfg.InsecureDevelopmentOnly = o.Config != nil
	harness.Apply(t, harness.Plan(t, adminOpen(t, cfg), false, harness.GrantOf(t, "alice", "read ", "claim a."), harness.GrantOf(t, "reader", "read ")))
	return server, cfg
}

// adminInspect gives the findings by what was looked at, the worst of each.
func adminInspect(t *testing.T, b *consul.Backend) map[string]naming.Finding {
	t.Helper()
	findings, err := b.Inspect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]naming.Finding{}
	for _, f := range findings {
		t.Logf("%s: %s: %s (%s)", f.Level, f.Check, f.Detail, f.Do)
		if (f.Do == "") != (f.Level == naming.LevelOK) {
			t.Errorf("what to do about %s (%s): %q", f.Check, f.Level, f.Do)
		}
		if f.Level >= all[f.Check].Level {
			all[f.Check] = f
		}
	}
	return all
}

func adminFound(t *testing.T, found map[string]naming.Finding, want map[string]naming.Level) {
	t.Helper()
	for check, level := range want {
		if got := found[check]; got.Level != level {
			t.Errorf("%s: %+v, want %s", check, got, level)
		}
	}
	if len(found) != len(want) {
		t.Errorf("%d things were looked at, want %d", len(found), len(want))
	}
}

const (
	adminOK   = naming.LevelOK
	adminWarn = naming.LevelWarn
	adminFail = naming.LevelFail
)

func TestInspect(t *testing.T) {
	server, cfg := adminProvisioned(t, harness.ConsulOptions{SessionTTLMin: 10 * time.Second})
	alice := adminPrincipal(t, cfg, "alice")
	adminFound(t, adminInspect(t, alice), map[string]naming.Level{
		"leader": adminOK, "default policy": adminOK, "anonymous": adminOK, "txn": adminOK, "clock": adminOK,
		"sessions": adminOK, "session ttl": adminOK, "sessions of others": adminOK,
		"server version": adminWarn, "authorities": adminWarn, // alice may not see them
	})
	// Nothing is left behind.
	if sessions, _, err := server.Admin.Session().List(nil); err != nil || len(sessions) != 0 {
		t.Errorf("sessions %v, %v", sessions, err)
	}
	if keys, _, err := server.Admin.KV().Keys("", "", nil); err != nil || len(keys) != 0 {
		t.Errorf("keys %v, %v", keys, err)
	}
	adminFound(t, adminInspect(t, adminPrincipal(t, cfg, "reader")), map[string]naming.Level{
		"leader": adminOK, "default policy": adminOK, "anonymous": adminOK, "txn": adminOK, "clock": adminOK,
		"sessions": adminOK, "session ttl": adminWarn, "sessions of others": adminOK,
		"server version": adminWarn, "authorities": adminWarn,
	})

	// Who may see the settings sees that they are good.
	server.Policy(t, "look", `agent_prefix "" { policy = "read" }`)
	looking := cfg
	looking.Token = consul.NewSecret(server.Token(t, "look", "skywarden-alice"))
	found := adminInspect(t, adminAs(t, looking.Config, "alice"))
	if found["server version"].Level != adminOK || !strings.HasSuffix(found["server version"].Detail, ": Consul 1.20.1") || found["authorities"].Level != adminOK {
		t.Errorf("with agent:read: %+v", found)
	}

	// A lease that the servers refuse is told before it is asked for.
	short := cfg.Config
	short.MinTTL, short.DefaultTTL = 5*time.Second, 15*time.Second
	short.TokenFile, short.Token = filepath.Join(cfg.TokenDir, "alice.token"), consul.Secret{}
	if f := adminInspect(t, adminAs(t, short, "alice"))["session ttl"]; f.Level != adminFail || !strings.Contains(f.Detail, "under 10s") {
		t.Errorf("MinTTL is below session_ttl_min: %+v", f)
	}

	// The node is gone, so there are no leases.
	_, err := server.Admin.Catalog().Deregister(&api.CatalogDeregistration{Node: "skywarden-alice"}, nil)
	adminMust(t, nil, err)
	if f := adminInspect(t, alice)["sessions"]; f.Level != adminFail || !strings.Contains(f.Detail, "not registered") {
		t.Errorf("without its node: %+v", f)
	}
}

// adminAs opens a configuration as a principal.
func adminAs(t *testing.T, cfg consul.Config, principal string) *consul.Backend {
	t.Helper()
	cfg.Principal = principal
	b, err := consul.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// What is open on a server is told.
func TestInspectOpenServer(t *testing.T) {
	server, cfg := adminProvisioned(t, harness.ConsulOptions{OpenTxn: true})
	alice := adminPrincipal(t, cfg, "alice")
	if f := adminInspect(t, alice)["txn"]; f.Level != adminWarn {
		t.Errorf("txn: %+v", f)
	}
	server.Policy(t, "skywarden-alice", `session_prefix "" { policy = "write" }`)
	if f := adminInspect(t, alice)["sessions of others"]; f.Level != adminFail {
		t.Errorf("sessions of others: %+v", f)
	}
	anonymous := func(rules string) naming.Finding {
		t.Helper()
		server.Policy(t, "anonymous", rules)
		_, _, err := server.Admin.ACL().TokenUpdate(&api.ACLToken{
			AccessorID: "00000000-0000-0000-0000-000000000002", Policies: []*api.ACLLink{{Name: "anonymous"}},
		}, nil)
		adminMust(t, nil, err)
		return adminInspect(t, alice)["anonymous"]
	}
	if f := anonymous(`key_prefix "" { policy = "read" }`); f.Level != adminWarn || !strings.Contains(f.Detail, "read names") {
		t.Errorf("anonymous, who may read: %+v", f)
	}
	if f := anonymous(`session "skywarden-alice" { policy = "write" }`); f.Level != adminFail {
		t.Errorf("anonymous, who may open sessions: %+v", f)
	}
}

// Without ACLs that deny, and without authorities of the servers' own, it fails.
func TestInspectUnsafeServer(t *testing.T) {
	for policy, config := range map[string]map[string]any{
		"allow": {"acl": map[string]any{"default_policy": "allow"}},
		"one authority": {
			"tls": map[string]any{"https": map[string]any{"ca_file": "peer-ca.pem"}},
		},
		"no host names": {
			"tls": map[string]any{"internal_rpc": map[string]any{"verify_server_hostname": false}},
		},
	} {
		t.Run(policy, func(t *testing.T) {
			server, cfg := adminProvisioned(t, harness.ConsulOptions{Config: config})
			server.Policy(t, "look", `agent_prefix "" { policy = "read" }`)
			cfg.Token = consul.NewSecret(server.Token(t, "look", "skywarden-alice"))
			found := adminInspect(t, adminAs(t, cfg.Config, "alice"))
			if policy != "allow" {
				if f := found["authorities"]; f.Level != adminWarn || strings.Contains(f.Detail, "cannot be seen") {
					t.Errorf("authorities: %+v", f)
				}
				return
			}
			for _, check := range []string{"default policy", "anonymous", "sessions of others"} {
				if f := found[check]; f.Level != adminFail {
					t.Errorf("%s: %+v", check, f)
				}
			}
		})
	}
}

func TestInspectOutage(t *testing.T) {
	server, cfg := adminProvisioned(t, harness.ConsulOptions{})
	// Where another server does the work it is no failure.
	other := harness.NewProxy(t, server.Address)
	two := cfg.Config
	two.Addresses = []string{"https://" + other.Address(), server.Addresses()[0]}
	two.Token, two.TokenFile = consul.Secret{}, filepath.Join(cfg.TokenDir, "alice.token")
	both := adminAs(t, two, "alice")
	other.Cut()
	found := adminInspect(t, both)
	if f := found["server"]; f.Level != adminWarn || !strings.Contains(f.Detail, other.Address()) {
		t.Errorf("one of two addresses is away: %+v", f)
	}
	if f := found["sessions"]; f.Level != adminOK {
		t.Errorf("sessions, with the other address: %+v", f)
	}
	server.Pause(t)
	found = adminInspect(t, both)
	adminFound(t, found, map[string]naming.Level{"server": adminFail, "sessions": adminWarn, "session ttl": adminWarn, "sessions of others": adminWarn})
}
