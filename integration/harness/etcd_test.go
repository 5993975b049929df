package harness_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/seed-6593ebad/skywarden/integration/harness"
	"github.com/seed-6593ebad/skywarden/internal/testca"
)

func TestEtcdKnowsUsersByCertificate(t *testing.T) {
	etcd := harness.StartEtcd(t, harness.EtcdOptions{})
	etcd.SetRole(t, "own-lobby", harness.ReadWrite("/names/game/lobby"))
	etcd.SetRole(t, "names-read", harness.ReadPrefix("/names/"))
	etcd.SetUser(t, "alice", "own-lobby", "names-read")
	etcd.SetUser(t, "reader", "names-read")

	alice := open(t, etcd, "alice", etcd.Address)
	mustPut(t, alice, "/names/game/lobby", "a")
	if err := put(t, alice, "/names/game/bank", "a"); !errors.Is(err, rpctypes.ErrPermissionDenied) {
		t.Errorf("alice writes a foreign key: %v, want permission denied", err)
	}
	reader := open(t, etcd, "reader", etcd.Address)
	if got := mustGet(t, reader, "/names/game/lobby"); got != "a" {
		t.Errorf("the reader reads %q, want a", got)
	}
	if err := put(t, reader, "/names/game/lobby", "r"); !errors.Is(err, rpctypes.ErrPermissionDenied) {
		t.Errorf("the reader writes: %v, want permission denied", err)
	}
	if err := put(t, open(t, etcd, "nobody", etcd.Address), "/names/game/lobby", "n"); err == nil {
		t.Error("an unknown user writes, want an error")
	}

	etcd.RevokeGrants(t, "own-lobby", harness.ReadWrite("/names/game/lobby"))
	if err := put(t, alice, "/names/game/lobby", "b"); !errors.Is(err, rpctypes.ErrPermissionDenied) {
		t.Errorf("alice writes after her grant was revoked: %v, want permission denied", err)
	}
	etcd.RevokeRole(t, "reader", "names-read")
	if _, err := get(t, reader, "/names/game/lobby"); !errors.Is(err, rpctypes.ErrPermissionDenied) {
		t.Errorf("the reader reads after its role was revoked: %v, want permission denied", err)
	}
}

func TestEtcdDemandsCertificatesOfItsCA(t *testing.T) {
	etcd := harness.StartEtcd(t, harness.EtcdOptions{NoAuth: true})
	mustPut(t, open(t, etcd, "anybody", etcd.Address), "k", "v")

	cfg := etcd.ClientTLS(t, "anybody")
	cfg.Certificates = nil
	if err := put(t, dial(t, clientv3.Config{Endpoints: etcd.Endpoints(), TLS: cfg}), "k", "v"); err == nil {
		t.Error("a client without certificate writes, want an error")
	}
	cfg = etcd.ClientTLS(t, "anybody")
	cfg.Certificates[0] = testca.New(t).Client(t, "anybody").TLS()
	if err := put(t, dial(t, clientv3.Config{Endpoints: etcd.Endpoints(), TLS: cfg}), "k", "v"); err == nil {
		t.Error("a client with another CA's certificate writes, want an error")
	}
}

func TestEtcdIsThePinnedVersion(t *testing.T) {
	for _, version := range []string{"3.7.3", "3.6.5"} {
		t.Run(version, func(t *testing.T) {
			etcd := harness.StartEtcd(t, harness.EtcdOptions{Version: version})
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			status, err := etcd.Admin.Status(ctx, etcd.Endpoints()[0])
			if err != nil {
				t.Fatal(err)
			}
			if status.Version != version {
				t.Errorf("server says version %s, want %s", status.Version, version)
			}
		})
	}
}

func TestEtcdWithABadCertificateCanBeAdministered(t *testing.T) {
	etcd := harness.StartEtcd(t, harness.EtcdOptions{
		ServerCert: func(tb testing.TB, ca *testca.CA) testca.Cert {
			tb.Helper()
			return ca.Issue(tb, testca.Request{Hosts: []string{"other.example"}, Server: true, Client: true, NotAfter: time.Now().Add(-time.Minute)})
		},
	})
	mustPut(t, etcd.Admin, "k", "v")
	if err := put(t, open(t, etcd, "root", etcd.Address), "k", "v"); err == nil {
		t.Error("a client trusts an expired certificate for another host")
	}
}

func TestEtcdPause(t *testing.T) {
	etcd := harness.StartEtcd(t, harness.EtcdOptions{})
	mustPut(t, etcd.Admin, "k", "before")
	etcd.Pause(t)
	if _, err := get(t, etcd.Admin, "k"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("read from a paused server: %v, want deadline exceeded", err)
	}
	etcd.Unpause(t)
	await(t, func() bool { value, err := get(t, etcd.Admin, "k"); return err == nil && value == "before" })
}

func TestEtcdIsRemovedWhilePaused(t *testing.T) {
	var address string
	t.Run("server", func(t *testing.T) {
		etcd := harness.StartEtcd(t, harness.EtcdOptions{})
		address = etcd.Address
		etcd.Pause(t)
	})
	mustRefuse(t, address)
}

func TestEtcdKeepsDataAndPort(t *testing.T) {
	etcd := harness.StartEtcd(t, harness.EtcdOptions{})
	for _, end := range []struct {
		name  string
		lever func(testing.TB)
	}{{"kill", etcd.Kill}, {"stop", etcd.Stop}} {
		mustPut(t, etcd.Admin, "k", end.name)
		end.lever(t)
		mustRefuse(t, etcd.Address)
		etcd.Start(t)
		if got := mustGet(t, open(t, etcd, "root", etcd.Address), "k"); got != end.name {
			t.Errorf("after %s and start the key says %q, want %q", end.name, got, end.name)
		}
	}
}

func TestEtcdIsRemovedAfterAFailure(t *testing.T) {
	output, err := rerun(t, "TestEtcdFailsOnPurpose", "FAIL_ON_PURPOSE=1")
	if err == nil {
		t.Fatalf("the failing test passed:\n%s", output)
	}
	address := regexp.MustCompile(`server at (127\.0\.0\.1:\d+)`).FindStringSubmatch(output)
	if address == nil || !strings.Contains(output, "end of the server's log") {
		t.Fatalf("want an address and the end of the server's log:\n%s", output)
	}
	mustRefuse(t, address[1])
}

// TestEtcdFailsOnPurpose fails when TestEtcdIsRemovedAfterAFailure runs it.
func TestEtcdFailsOnPurpose(t *testing.T) {
	if os.Getenv("FAIL_ON_PURPOSE") == "" {
		return
	}
	t.Fatalf("on purpose, with a server at %s", harness.StartEtcd(t, harness.EtcdOptions{}).Address)
}

func TestProxy(t *testing.T) {
	etcd := harness.StartEtcd(t, harness.EtcdOptions{})
	proxy := harness.NewProxy(t, etcd.Address)
	client := open(t, etcd, "root", proxy.Address())
	mustPut(t, client, "k", "v")

	proxy.BlackHole()
	if err := put(t, client, "k", "held"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("through a black hole: %v, want deadline exceeded", err)
	}
	conn, err := net.DialTimeout("tcp", proxy.Address(), time.Second)
	if err != nil {
		t.Errorf("a black hole refuses connections: %v, want it to accept", err)
	} else {
		conn.Close()
	}
	if got := mustGet(t, etcd.Admin, "k"); got != "v" {
		t.Errorf("a write went through the black hole: the key says %q", got)
	}
	proxy.Heal()
	await(t, func() bool { return put(t, client, "k", "healed") == nil })

	proxy.Slow(100 * time.Millisecond)
	start := time.Now()
	mustPut(t, client, "k", "slow")
	if took := time.Since(start); took < 200*time.Millisecond {
		t.Errorf("a slow round trip took %v, want 200ms at least", took)
	}

	proxy.Cut()
	if err := put(t, client, "k", "cut"); err == nil {
		t.Error("a write went through a cut connection")
	}
	proxy.Heal()
	await(t, func() bool { return put(t, client, "k", "again") == nil })
	if got := mustGet(t, etcd.Admin, "k"); got != "again" {
		t.Errorf("the key says %q, want again", got)
	}
}

func open(t *testing.T, etcd *harness.Etcd, user, address string) *clientv3.Client {
	t.Helper()
	return dial(t, clientv3.Config{Endpoints: []string{"https://" + address}, TLS: etcd.ClientTLS(t, user)})
}

func dial(t *testing.T, cfg clientv3.Config) *clientv3.Client {
	t.Helper()
	cfg.Logger = zap.NewNop()
	client, err := clientv3.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func put(t *testing.T, client *clientv3.Client, key, value string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err := client.Put(ctx, key, value)
	return err
}

func get(t *testing.T, client *clientv3.Client, key string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	answer, err := client.Get(ctx, key)
	if err != nil {
		return "", err
	}
	if len(answer.Kvs) != 1 {
		return "", fmt.Errorf("%d keys", len(answer.Kvs))
	}
	return string(answer.Kvs[0].Value), nil
}

func mustPut(t *testing.T, client *clientv3.Client, key, value string) {
	t.Helper()
	if err := put(t, client, key, value); err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
}

func mustGet(t *testing.T, client *clientv3.Client, key string) string {
	t.Helper()
	value, err := get(t, client, key)
	if err != nil {
		t.Fatalf("get %s: %v", key, err)
	}
	return value
}

func mustRefuse(t *testing.T, address string) {
	t.Helper()
	if conn, err := net.DialTimeout("tcp", address, time.Second); err == nil {
		conn.Close()
		t.Errorf("something still listens at %s", address)
	}
}

func await(t *testing.T, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatal("it did not come about within 20 seconds")
		}
	}
}
