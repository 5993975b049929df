package consul_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/seed-6593ebad/skywarden"
	"github.com/seed-6593ebad/skywarden/backends/consul"
	"github.com/seed-6593ebad/skywarden/configs"
	"github.com/seed-6593ebad/skywarden/integration/harness"
	"github.com/seed-6593ebad/skywarden/naming"
)

// adminSample writes configs/consul.yaml as it is, but for the server's address
// and ours, and what it refers to. It gives its path.
func adminSample(t *testing.T, server *harness.Consul, secret string) string {
	t.Helper()
	dir := t.TempDir()
	server.CA.WriteFile(t, dir, "ca")
	server.CA.Client(t, "game").WriteFiles(t, dir, "game")
	adminMust(t, nil, os.WriteFile(filepath.Join(dir, "game.token"), []byte(secret+"\n"), 0o600))
	text := configs.ConsulSample
	changes := []string{"https://127.0.0.1:8501", server.Addresses()[0], "127.0.0.1:7000\n", adminFreeEndpoint(t) + "\n"}
	for i := 0; i < len(changes); i += 2 {
		if !strings.Contains(text, changes[i]) {
			t.Fatalf("configs/consul.yaml does not say %q any more", changes[i])
		}
		text = strings.ReplaceAll(text, changes[i], changes[i+1])
	}
	file := filepath.Join(dir, "consul.yaml")
	adminMust(t, nil, os.WriteFile(file, []byte(text), 0o600))
	return file
}

// adminFreeEndpoint finds a port that the sample's allow-list permits.
func adminFreeEndpoint(t *testing.T) string {
	t.Helper()
	for range 100 {
		endpoint := fmt.Sprintf("127.0.0.1:%d", 7000+rand.IntN(1000))
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", endpoint)
		if err == nil {
			adminMust(t, nil, l.Close())
			return endpoint
		}
	}
	t.Fatal("there is no free port from 7000 to 7999")
	return ""
}

// The policies of consul-acl.hcl, applied letter by letter to a server that asks
// for certificates, are what consul.yaml needs, and what Plan would make.
func TestSamples(t *testing.T) {
	server := harness.StartConsul(t, harness.ConsulOptions{ClientCerts: true})
	sections := strings.Split(configs.ConsulPolicies, "\n# policy ")[1:]
	secrets := map[string]string{}
	for _, section := range sections {
		policy, rules, _ := strings.Cut(section, "\n")
		server.Policy(t, policy, rules)
		server.Node(t, policy)
		secrets[policy] = server.Token(t, policy)
	}
	if len(secrets) != 2 {
		t.Fatalf("configs/consul-acl.hcl has %d policies", len(secrets))
	}

	file := adminSample(t, server, secrets["skywarden-game"])
	c, err := configs.Load(file, "echo")
	adminMust(t, nil, err)
	grants := c.Allow.Grants()
	for _, g := range grants {
		cfg := *c.Consul
		cfg.Node, cfg.TokenFile, cfg.Token = "", "", consul.NewSecret(secrets["skywarden-"+g.Principal])
		adminRights(t, adminAs(t, cfg, g.Principal), g, []string{"game", "game.lobby", "game.eu.x", "games", "billing", "billing.x", "x"})
	}
	admin := consul.AdminConfig{Config: *c.Consul, TokenDir: t.TempDir()}
	admin.TokenFile, admin.Token = "", consul.NewSecret(server.ManagementToken)
	harness.WantPlan(t, harness.Plan(t, adminOpen(t, admin), true, grants...), "create token of billing: ", "create token of game: ")

	node, err := c.Open(t.Context(), func(c *skywarden.Config) { c.Logger = zerolog.New(zerolog.NewTestWriter(t)) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { node.Close(context.WithoutCancel(t.Context())) })
	ref, err := node.Spawn(func(c *skywarden.Context, msg any) error { return c.Reply(msg) })
	adminMust(t, nil, err)
	if err := node.Register(t.Context(), "game.lobby", ref); err != nil {
		t.Errorf("a name of ours: %v", err)
	}
	if pair, _, err := server.Admin.KV().Get("skywarden/names/game/lobby", nil); err != nil || pair == nil || pair.Session == "" {
		t.Errorf("the name on the server: %+v, %v", pair, err)
	}
	if err := node.Register(t.Context(), "billing", ref); !errors.Is(err, naming.ErrNameNotAllowed) {
		t.Errorf("a name of somebody else: %v", err)
	}

	// A token that the server does not know is told, and not repeated.
	wrong := "7448b034-a493-4e67-98e0-409c02c124f5"
	c, err = configs.Load(adminSample(t, server, wrong), "echo")
	adminMust(t, nil, err)
	if _, err := c.OpenBackend(t.Context(), zerolog.Nop()); !errors.Is(err, naming.ErrUnauthenticated) || strings.Contains(err.Error(), wrong) || !strings.Contains(err.Error(), "consul.yaml: ") {
		t.Errorf("a wrong token: %v", err)
	}
}
