package etcd_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/seed-6593ebad/skywarden/backends/backendtest"
	"github.com/seed-6593ebad/skywarden/backends/etcd"
	"github.com/seed-6593ebad/skywarden/integration/harness"
	"github.com/seed-6593ebad/skywarden/internal/testca"
	"github.com/seed-6593ebad/skywarden/naming"
)

func TestConformance(t *testing.T) {
	server := harness.StartEtcd(t, harness.EtcdOptions{})
	for principal, rights := range backendtest.Plan() {
		server.SetRole(t, string(principal), grants(rights)...)
		server.SetUser(t, string(principal), string(principal))
	}
	foreign := testca.New(t)
	cfgs := map[backendtest.Principal]etcd.Config{}
	for principal := range backendtest.Plan() {
		cfgs[principal] = config(t, server, string(principal))
	}
	wrong := config(t, server, string(backendtest.OwnerA))
	wrong.TLS.CertFile, wrong.TLS.KeyFile = foreign.Client(t, string(backendtest.OwnerA)).WriteFiles(t, t.TempDir(), "foreign")
	cfgs[backendtest.WrongCredential] = wrong
	conform(t, server, cfgs)
}

// TestPasswordConformance is the same with passwords. Watches are authorised again
// after 4 s and not 45 s, for which TestConformance waits.
func TestPasswordConformance(t *testing.T) {
	server := harness.StartEtcd(t, harness.EtcdOptions{Passwords: true})
	journal, file := newJournal(t), newSecretFile(t, canary)
	cfgs := map[backendtest.Principal]etcd.Config{}
	for principal, rights := range backendtest.Plan() {
		server.SetRole(t, string(principal), grants(rights)...)
		server.SetPassword(t, string(principal), canary)
		server.SetUser(t, string(principal), string(principal))
		cfg := passwordConfig(t, server, string(principal), file, journal.logger())
		cfg.ReauthorizeEvery = 4 * time.Second
		cfgs[principal] = cfg
	}
	cfgs[backendtest.WrongCredential] = passwordConfig(t, server, string(backendtest.OwnerA), newSecretFile(t, canary+"x"), journal.logger())
	conform(t, server, cfgs)
}

// conform runs the suite for drivers opened with cfgs.
func conform(t *testing.T, server *harness.Etcd, cfgs map[backendtest.Principal]etcd.Config) {
	t.Helper()
	lever := func(tb testing.TB, what string, act func(ctx context.Context) error) {
		tb.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		defer cancel()
		if err := act(ctx); err != nil {
			tb.Fatalf("%s: %v", what, err)
		}
	}
	backendtest.Run(t, backendtest.Harness{
		Open: func(tb testing.TB, p backendtest.Principal) (naming.Backend, error) {
			tb.Helper()
			b, err := etcd.Open(tb.Context(), cfgs[p])
			if err != nil {
				return nil, err
			}
			return b, nil
		},
		TTL:     3 * time.Second,
		Pause:   server.Pause,
		Resume:  server.Unpause,
		Kill:    server.Kill,
		Restart: server.Start,
		ExpireLease: func(tb testing.TB, n naming.Name) {
			tb.Helper()
			lever(tb, "revoke the lease of "+n.String(), func(ctx context.Context) error {
				resp, err := server.Admin.Get(ctx, key(n.String()))
				if err != nil {
					return err
				}
				if len(resp.Kvs) == 0 || resp.Kvs[0].Lease == 0 {
					return fmt.Errorf("it has no lease: %v", resp.Kvs)
				}
				_, err = server.Admin.Revoke(ctx, clientv3.LeaseID(resp.Kvs[0].Lease))
				return err
			})
		},
		Revoke: func(tb testing.TB, p backendtest.Principal) {
			tb.Helper()
			server.RevokeRole(tb, string(p), string(p))
		},
		PutUnheld: func(tb testing.TB, n naming.Name, value []byte) {
			tb.Helper()
			lever(tb, "put "+n.String(), func(ctx context.Context) error {
				_, err := server.Admin.Put(ctx, key(n.String()), string(value))
				return err
			})
		},
		Count: func(tb testing.TB) (c backendtest.Count) {
			tb.Helper()
			lever(tb, "count", func(ctx context.Context) error {
				leases, err := server.Admin.Leases(ctx)
				if err != nil {
					return err
				}
				entries, err := server.Admin.Get(ctx, root+"/", clientv3.WithPrefix(), clientv3.WithCountOnly())
				if err != nil {
					return err
				}
				c = backendtest.Count{Leases: len(leases.Leases), Entries: int(entries.Count)}
				return nil
			})
			return c
		},
	})
}

// grants turns rights into what a role needs.
func grants(rights backendtest.Rights) []harness.Grant {
	var out []harness.Grant
	for _, sc := range rights.Claim {
		if n, only := sc.Name(); only {
			out = append(out, harness.ReadWrite(key(n.String())))
		} else {
			out = append(out, harness.ReadWritePrefix(key(sc.String())))
		}
	}
	for range rights.Read { // all names or nothing, says Plan
		out = append(out, harness.ReadPrefix(root+"/names/"))
	}
	return out
}
