package harness_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/seed-6593ebad/skywarden/integration/harness"
	"github.com/seed-6593ebad/skywarden/internal/testca"
)

func TestConsulKnowsPrincipalsByToken(t *testing.T) {
	consul := harness.StartConsul(t, harness.ConsulOptions{})
	for _, name := range []string{"alice", "bob"} {
		consul.Node(t, name)
		consul.Policy(t, name, `session "`+name+`" { policy = "write" } key "names/`+name+`" { policy = "write" }`)
	}
	consul.Policy(t, "names-read", `key_prefix "names/" { policy = "read" }`)
	secret := consul.Token(t, "alice", "names-read")
	alice := consul.Client(t, secret)

	mustWrite(t, alice, "names/alice", "a")
	mustBeDenied(t, "alice writes a foreign key", write(t, alice, "names/bob", "a"))
	_, err := createSession(t, alice, "alice", "1s")
	if err != nil {
		t.Errorf("alice makes a session on her node: %v", err)
	}
	_, err = createSession(t, alice, "bob", "1s")
	mustBeDenied(t, "alice makes a session on bob's node", err)
	for who, token := range map[string]string{"nobody": "", "a token without policies": consul.Token(t)} {
		client := consul.Client(t, token)
		mustBeDenied(t, who+" writes", write(t, client, "names/alice", "n"))
		// Consul tells who may not read that there is no such key.
		if got, err := read(t, client, "names/alice"); err == nil {
			t.Errorf("%s reads %q, want an error", who, got)
		}
	}

	consul.Policy(t, "alice", `key "names/alice" { policy = "read" }`)
	mustBeDenied(t, "alice writes after her policy was narrowed", write(t, alice, "names/alice", "b"))
	if got := mustRead(t, alice, "names/alice"); got != "a" {
		t.Errorf("the key says %q, want a", got)
	}
	consul.RevokeToken(t, secret)
	if _, err := read(t, alice, "names/alice"); err == nil || !strings.Contains(err.Error(), "ACL not found") {
		t.Errorf("alice reads with a revoked token: %v, want ACL not found", err)
	}
}

func TestConsulIsHardened(t *testing.T) {
	consul := harness.StartConsul(t, harness.ConsulOptions{})
	if err := transact(t, consul.Admin); err == nil || !strings.Contains(err.Error(), "Endpoint is blocked") {
		t.Errorf("a transaction of the administrator: %v, want that the endpoint is blocked", err)
	}
	if answer, err := http.Get("http://" + consul.Address + "/v1/status/leader"); err == nil {
		answer.Body.Close()
		if answer.StatusCode == http.StatusOK {
			t.Error("the server answers without TLS")
		}
	}
	self, err := consul.Admin.Agent().Self()
	if err != nil {
		t.Fatal(err)
	}
	if got := self["Config"]["Version"]; got != "1.20.1" {
		t.Errorf("server says version %v, want 1.20.1", got)
	}
}

func TestConsulOptions(t *testing.T) {
	consul := harness.StartConsul(t, harness.ConsulOptions{
		SessionTTLMin: 10 * time.Second,
		OpenTxn:       true,
		ClientCerts:   true,
		ServerCert: func(tb testing.TB, ca *testca.CA) testca.Cert {
			tb.Helper()
			return ca.Issue(tb, testca.Request{Hosts: []string{"127.0.0.1"}, Server: true, NotAfter: time.Now().Add(time.Hour)})
		},
		Config: map[string]any{"node_meta": map[string]any{"laid": "over"}},
	})
	consul.Node(t, "alice")
	if _, err := createSession(t, consul.Admin, "alice", "3s"); err == nil || !strings.Contains(err.Error(), "Invalid Session TTL") {
		t.Errorf("a session of 3s where 10s are the least: %v, want invalid", err)
	}
	if err := transact(t, consul.Admin); err != nil {
		t.Errorf("a transaction of the administrator: %v", err)
	}
	self, err := consul.Admin.Agent().Self()
	if err != nil {
		t.Fatal(err)
	}
	if got := self["Meta"]["laid"]; got != "over" {
		t.Errorf("the server's node_meta says %v, want what was laid over its configuration", got)
	}

	mustWrite(t, consul.Client(t, consul.ManagementToken), "k", "with a certificate")
	config := consul.ClientTLS(t)
	config.Certificates = nil
	transport := &http.Transport{TLSClientConfig: config}
	t.Cleanup(transport.CloseIdleConnections)
	bare, err := api.NewClient(&api.Config{
		Address: consul.Addresses()[0], Token: consul.ManagementToken, HttpClient: &http.Client{Transport: transport},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := write(t, bare, "k", "without"); err == nil {
		t.Error("a client without certificate writes, want an error")
	}
}

func TestConsulWithABadCertificateCanBeAdministered(t *testing.T) {
	consul := harness.StartConsul(t, harness.ConsulOptions{
		ServerCert: func(tb testing.TB, ca *testca.CA) testca.Cert {
			tb.Helper()
			return ca.Issue(tb, testca.Request{Hosts: []string{"other.example"}, Server: true, NotAfter: time.Now().Add(-time.Minute)})
		},
	})
	mustWrite(t, consul.Admin, "k", "v")
	if err := write(t, consul.Client(t, consul.ManagementToken), "k", "v"); err == nil {
		t.Error("a client trusts an expired certificate for another host")
	}
}

func TestConsulKeepsDataAndPort(t *testing.T) {
	consul := harness.StartConsul(t, harness.ConsulOptions{})
	consul.Policy(t, "all", `key_prefix "" { policy = "write" }`)
	client := consul.Client(t, consul.Token(t, "all"))
	for _, end := range []struct {
		name  string
		lever func(testing.TB)
	}{{"kill", consul.Kill}, {"stop", consul.Stop}} {
		mustWrite(t, client, "k", end.name)
		end.lever(t)
		mustRefuse(t, consul.Address)
		consul.Start(t)
		if got := mustRead(t, client, "k"); got != end.name {
			t.Errorf("after %s and start the key says %q, want %q", end.name, got, end.name)
		}
	}

	consul.Pause(t)
	if _, err := read(t, client, "k"); err == nil || !strings.Contains(err.Error(), context.DeadlineExceeded.Error()) {
		t.Errorf("read from a paused server: %v, want deadline exceeded", err)
	}
	consul.Unpause(t)
	await(t, func() bool { value, err := read(t, client, "k"); return err == nil && value == "stop" })
}

func TestConsulShortSession(t *testing.T) {
	consul := harness.StartConsul(t, harness.ConsulOptions{})
	consul.Node(t, "alice")
	session, err := createSession(t, consul.Admin, "alice", "1s")
	if err != nil {
		t.Fatal(err)
	}
	acquired, _, err := consul.Admin.KV().Acquire(&api.KVPair{Key: "k", Value: []byte("v"), Session: session}, nil)
	if err != nil || !acquired {
		t.Fatalf("acquire: %v, %v", acquired, err)
	}
	start := time.Now()
	await(t, func() bool { _, err := read(t, consul.Admin, "k"); return err != nil })
	if took := time.Since(start); took < time.Second || took > 5*time.Second {
		t.Errorf("the key of a session of 1s went after %v, want about 2s", took)
	}
}

func mustBeDenied(t *testing.T, what string, err error) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), "Permission denied") {
		t.Errorf("%s: %v, want permission denied", what, err)
	}
}

func createSession(t *testing.T, client *api.Client, node, ttl string) (string, error) {
	t.Helper()
	id, _, err := client.Session().CreateNoChecks(&api.SessionEntry{
		Node: node, TTL: ttl, Behavior: api.SessionBehaviorDelete, LockDelay: time.Millisecond,
	}, nil)
	return id, err
}

func transact(t *testing.T, client *api.Client) error {
	t.Helper()
	_, _, _, err := client.Txn().Txn(api.TxnOps{{KV: &api.KVTxnOp{Verb: api.KVSet, Key: "txn"}}}, nil)
	return err
}

func write(t *testing.T, client *api.Client, key, value string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err := client.KV().Put(&api.KVPair{Key: key, Value: []byte(value)}, (&api.WriteOptions{}).WithContext(ctx))
	return err
}

// read fails if there is no such key.
func read(t *testing.T, client *api.Client, key string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	pair, _, err := client.KV().Get(key, (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx))
	switch {
	case err != nil:
		return "", err
	case pair == nil:
		return "", errNoKey
	}
	return string(pair.Value), nil
}

var errNoKey = errors.New("there is no such key")

func mustWrite(t *testing.T, client *api.Client, key, value string) {
	t.Helper()
	if err := write(t, client, key, value); err != nil {
		t.Fatalf("write %s: %v", key, err)
	}
}

func mustRead(t *testing.T, client *api.Client, key string) string {
	t.Helper()
	value, err := read(t, client, key)
	if err != nil {
		t.Fatalf("read %s: %v", key, err)
	}
	return value
}
