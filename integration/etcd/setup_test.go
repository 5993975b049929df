// Package etcd_test runs the etcd driver against real servers.
package etcd_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/seed-6593ebad/skywarden/backends/etcd"
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

const root = "/skywarden"

// slack is for a machine with two cores that runs other tests beside.
const slack = time.Second

func key(name string) string { return root + "/names/" + strings.ReplaceAll(name, ".", "/") }

// start runs a server with the usual users: alice and bob each own a family and
// share another, and both read everything; carol has no rights.
func start(t *testing.T) *harness.Etcd {
	t.Helper()
	server := harness.StartEtcd(t, harness.EtcdOptions{})
	users(t, server)
	return server
}

func users(t *testing.T, server *harness.Etcd) {
	t.Helper()
	server.SetRole(t, "names-read", harness.ReadPrefix(root+"/names/"))
	server.SetRole(t, "own-a", harness.ReadWritePrefix(key("a.")), harness.ReadWrite(key("a")))
	server.SetRole(t, "own-b", harness.ReadWritePrefix(key("b.")))
	server.SetRole(t, "own-shared", harness.ReadWritePrefix(key("shared.")))
	server.SetUser(t, "alice", "names-read", "own-a", "own-shared")
	server.SetUser(t, "bob", "names-read", "own-b", "own-shared")
	server.SetUser(t, "carol")
}

// config is that of a client certificate for user, trusted by the server.
func config(t *testing.T, server *harness.Etcd, user string) etcd.Config {
	t.Helper()
	files := server.ClientFiles(t, user)
	return etcd.Config{
		Endpoints: server.Endpoints(),
		TLS:       etcd.TLS{CertFile: files.Cert, KeyFile: files.Key, CAFile: files.CA},
		Logger:    zerolog.New(zerolog.NewTestWriter(t)).With().Timestamp().Str("user", user).Logger(),
	}
}

func open(t *testing.T, cfg etcd.Config) *etcd.Backend {
	t.Helper()
	b, err := etcd.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func openAs(t *testing.T, server *harness.Etcd, user string) *etcd.Backend {
	t.Helper()
	return open(t, config(t, server, user))
}

// through has the client dial proxy instead of the server.
func through(cfg etcd.Config, proxies ...*harness.Proxy) etcd.Config {
	cfg.Endpoints = nil
	for _, p := range proxies {
		cfg.Endpoints = append(cfg.Endpoints, "https://"+p.Address())
	}
	return cfg
}

func lease(t *testing.T, b *etcd.Backend) naming.Lease {
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

// admin is how the server's administrator, or an attacker, sees things.
func get(t *testing.T, client *clientv3.Client, n string) *pb.RangeResponse {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	resp, err := client.Get(ctx, key(n))
	if err != nil {
		t.Fatal(err)
	}
	return (*pb.RangeResponse)(resp)
}

// record runs a watch until the test ends.
func record(t *testing.T, b naming.Backend, sc string) *harness.WatchLog {
	t.Helper()
	return harness.Watch(t, b, scope(t, sc))
}
