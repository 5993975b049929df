package consul_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/consul/api"

	"github.com/seed-6593ebad/skywarden/backends/backendtest"
	"github.com/seed-6593ebad/skywarden/backends/consul"
	"github.com/seed-6593ebad/skywarden/integration/harness"
	"github.com/seed-6593ebad/skywarden/naming"
)

func TestConformance(t *testing.T) {
	server := harness.StartConsul(t, harness.ConsulOptions{})
	tokens := map[backendtest.Principal]string{backendtest.WrongCredential: uuid.NewString()}
	for p, rights := range backendtest.Plan() {
		tokens[p] = principal(t, server.ConsulAccess, string(p), rights)
	}
	cfgs := map[backendtest.Principal]consul.Config{}
	for p, token := range tokens {
		cfgs[p] = configWith(t, server.ConsulAccess, string(p), token)
	}
	lever := func(tb testing.TB, what string, act func(ctx context.Context) error) {
		tb.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		defer cancel()
		if err := act(ctx); err != nil {
			tb.Fatalf("%s: %v", what, err)
		}
	}
	reading := func(ctx context.Context) *api.QueryOptions {
		return (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx)
	}
	writing := func(ctx context.Context) *api.WriteOptions { return (&api.WriteOptions{}).WithContext(ctx) }
	backendtest.Run(t, backendtest.Harness{
		Open: func(tb testing.TB, p backendtest.Principal) (naming.Backend, error) {
			tb.Helper()
			b, err := consul.Open(tb.Context(), cfgs[p])
			if err != nil {
				return nil, err
			}
			return b, nil
		},
		TTL: ttl,
		// Consul ends a session after twice its TTL, and after a restart of the server
		// counts from its beginning.
		FreeWithin:        2*ttl + time.Second,
		FreeWithinRestart: 4*ttl + 5*time.Second,
		Pause:             server.Pause,
		Resume:            server.Unpause,
		Kill:              server.Kill,
		Restart:           server.Start,
		ExpireLease: func(tb testing.TB, n naming.Name) {
			tb.Helper()
			lever(tb, "end the session of "+n.String(), func(ctx context.Context) error {
				pair, _, err := server.Admin.KV().Get(key(n.String()), reading(ctx))
				if err != nil {
					return err
				}
				if pair == nil || pair.Session == "" {
					return fmt.Errorf("it has no session: %v", pair)
				}
				_, err = server.Admin.Session().Destroy(pair.Session, writing(ctx))
				return err
			})
		},
		Revoke: func(tb testing.TB, p backendtest.Principal) {
			tb.Helper()
			server.RevokeToken(tb, tokens[p])
		},
		PutUnheld: func(tb testing.TB, n naming.Name, value []byte) {
			tb.Helper()
			lever(tb, "put "+n.String(), func(ctx context.Context) error {
				_, err := server.Admin.KV().Put(&api.KVPair{Key: key(n.String()), Value: value}, writing(ctx))
				return err
			})
		},
		Count: func(tb testing.TB) (c backendtest.Count) {
			tb.Helper()
			lever(tb, "count", func(ctx context.Context) error {
				sessions, _, err := server.Admin.Session().List(reading(ctx))
				if err != nil {
					return err
				}
				for _, session := range sessions {
					if strings.HasPrefix(session.Node, root+"-") {
						c.Leases++
					}
				}
				keys, _, err := server.Admin.KV().Keys(root+"/", "", reading(ctx))
				c.Entries = len(keys)
				return err
			})
			return c
		},
	})
}
