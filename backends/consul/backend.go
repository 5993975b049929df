package consul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/rs/zerolog"

	"github.com/seed-6593ebad/skywarden/internal/driver"
	"github.com/seed-6593ebad/skywarden/naming"
)

// A Backend is a naming.Backend on the KV store of Consul.
type Backend struct {
	settings *settings
	log      zerolog.Logger
	servers  *servers
	hub      hub

	life *driver.Life
}

var (
	_ naming.Backend    = (*Backend)(nil)
	_ naming.Describer  = (*Backend)(nil)
	_ naming.Identifier = (*Backend)(nil)
)

// Deadlines of calls. Each try is shorter than its call, so that a server that
// hangs costs one try: the next one goes to another address.
const (
	getTimeout   = 900 * time.Millisecond // an outage is known within a second
	getTry       = 280 * time.Millisecond // so there are three of them
	whoTimeout   = 3 * time.Second
	whoTry       = time.Second
	openTimeout  = 2 * time.Second
	closeTimeout = 2 * time.Second
)

// Open connects to Consul. All problems of cfg are reported at once, joined; they
// wrap naming.ErrInsecureConfig where the configuration is well-formed but not
// safe.
//
// Open asks every address at once and waits 2 s at most. It fails
//
//   - if a server that answers has its ACLs off, or allows by default
//     (ErrInsecureConfig);
//   - if no server is usable and one of them refused us or is not who it should
//     be: ErrUnauthenticated, also where the server does not know the token, or
//     ErrUnavailable with the reason of crypto/x509 in its chain;
//   - with ctx's error.
//
// It does not fail because servers are away: a process that starts during an
// outage works once it is over, and its calls give ErrUnavailable until then.
// What a server is like is looked at in each of its answers, at whatever time it
// comes back.
func Open(ctx context.Context, cfg Config) (*Backend, error) {
	s, err := cfg.check()
	if err != nil {
		return nil, err
	}
	b := &Backend{settings: s, log: s.Logger, life: driver.NewLife(ctx, driverName, s.Logger)}
	b.hub.backend = b
	if s.InsecureDevelopmentOnly {
		b.log.Warn().Bool("alarm", true).Msg("InsecureDevelopmentOnly: servers without TLS and without ACLs are accepted: anybody may take any name")
	}
	if b.servers, err = newServers(s); err == nil {
		err = b.first(ctx)
	}
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, errors.Join(b.life.Fail("open", naming.Name{}, err), b.Close())
	}
	return b, nil
}

// first asks all servers before anybody else does. One that is unsafe condemns
// all; otherwise one good server is enough.
func (b *Backend) first(ctx context.Context) error {
	problems := make([]error, len(b.servers.clients))
	var wg sync.WaitGroup
	for i, client := range b.servers.clients {
		wg.Go(func() {
			err := once(ctx, openTimeout, func(ctx context.Context) error { return b.self(ctx, client) })
			if err != nil && !definite(err) {
				err = cmp.Or(b.servers.refusal(ctx, b.settings.hosts[i]), err)
			}
			if err != nil {
				problems[i] = fmt.Errorf("%s: %w", b.settings.hosts[i], err)
			}
		})
	}
	wg.Wait()
	all, good := errors.Join(problems...), false
	for _, problem := range problems {
		good = good || problem == nil
	}
	switch {
	case errors.Is(all, naming.ErrInsecureConfig):
		return all
	case good:
		return nil
	case definite(all) || ctx.Err() != nil:
		return all
	}
	b.log.Warn().Err(all).Msg("no Consul server can be reached yet")
	return nil
}

// self asks a server whether it knows our token, consistently: see confirm. For
// development, where there may be no token or no ACLs, that it answers is enough.
func (b *Backend) self(ctx context.Context, client *api.Client) error {
	if secret, err := b.settings.secret(ctx); secret == "" && err == nil {
		return answers(ctx, client)
	}
	token, _, err := client.ACL().TokenReadSelf(b.reading(ctx))
	switch {
	case b.settings.InsecureDevelopmentOnly && errors.Is(translate(err), naming.ErrInsecureConfig):
		return answers(ctx, client)
	case err == nil && token.AccessorID == "":
		return fmt.Errorf("%w: the answer does not speak of a token: is the address that of something else?", naming.ErrUnavailable)
	}
	return err
}

func answers(ctx context.Context, client *api.Client) error {
	_, err := client.Status().LeaderWithQueryOptions((&api.QueryOptions{}).WithContext(ctx))
	return err
}

// Get implements naming.Backend. An outage is known within a second.
func (b *Backend) Get(ctx context.Context, name naming.Name) (naming.Entry, error) {
	const op = "get"
	if name.IsZero() {
		return naming.Entry{}, b.life.Fail(op, name, driver.ErrZeroName)
	}
	pair, err := b.get(ctx, name, getTimeout, getTry)
	if err == nil && pair == nil {
		err = naming.ErrNotFound
	}
	if err != nil {
		return naming.Entry{}, b.life.Fail(op, name, err)
	}
	return entry(name, pair), nil
}

// get reads a name linearizably: nil if there is nothing.
func (b *Backend) get(ctx context.Context, name naming.Name, total, try time.Duration) (pair *api.KVPair, err error) {
	err = b.ask(ctx, total, try, func(ctx context.Context, client *api.Client) (err error) {
		pair, _, err = read(client, b.settings.keys.of(name), b.reading(ctx))
		return err
	})
	return pair, err
}

// read reads a key and its index. "404" alone is not believed: only with an
// index does it come from the KV store, and not from something on the way.
func read(client *api.Client, key string, options *api.QueryOptions) (*api.KVPair, uint64, error) {
	pair, meta, err := client.KV().Get(key, options)
	switch {
	case err != nil:
		return nil, 0, err
	case meta.LastIndex == 0:
		return nil, 0, errNoIndex
	}
	return pair, meta.LastIndex, nil
}

var errNoIndex = fmt.Errorf("%w: the answer has no index, as one of the KV store has: is the address that of something else?", naming.ErrUnavailable)

func entry(name naming.Name, pair *api.KVPair) naming.Entry {
	value := pair.Value
	if value == nil {
		value = []byte{} // so the SDK gives an empty one
	}
	return naming.Entry{Name: name, Value: value, Revision: naming.Revision(pair.ModifyIndex), Held: pair.Session != ""}
}

// WhoAmI implements naming.Identifier: the principal of the Config, once a server
// has confirmed that it knows the token. That the token is this principal's is
// shown by what it may do: sessions on the principal's node, and writes of its
// names.
func (b *Backend) WhoAmI(ctx context.Context) (string, error) {
	if err := b.ask(ctx, whoTimeout, whoTry, b.self); err != nil {
		return "", b.life.Fail("whoami", naming.Name{}, err)
	}
	return b.settings.Principal, nil
}

// Describe implements naming.Describer. Names are watched one by one: a query
// over a prefix returns the whole prefix at each change.
func (b *Backend) Describe() naming.Description {
	return naming.Description{
		Driver:     driverName,
		DefaultTTL: b.settings.DefaultTTL, MinTTL: b.settings.MinTTL, MaxTTL: MaxTTL,
	}
}

// Close implements naming.Backend. Its error says which leases could not be
// ended: their names are free after twice their TTL.
func (b *Backend) Close() error {
	err := b.life.Close(closeTimeout)
	if b.servers != nil {
		b.servers.transport.CloseIdleConnections()
	}
	return err
}
