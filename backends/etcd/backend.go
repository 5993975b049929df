package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"

	"github.com/seed-6593ebad/skywarden/internal/driver"
	"github.com/seed-6593ebad/skywarden/naming"
)

// A Backend is a naming.Backend on an etcd cluster.
type Backend struct {
	settings *settings
	log      zerolog.Logger
	rules    rules
	guard    *guard           // nil with a Client of the user's own
	client   *clientv3.Client // for its connection; its retries, its logins and its watcher are not used
	login    *login           // nil: users are known by certificate

	auth    pb.AuthClient
	kv      pb.KVClient
	leasing pb.LeaseClient
	watch   pb.WatchClient
	hub     hub

	life *driver.Life
}

var (
	_ naming.Backend    = (*Backend)(nil)
	_ naming.Describer  = (*Backend)(nil)
	_ naming.Identifier = (*Backend)(nil)
)

// Deadlines of calls. Each try is shorter than its call, so that a server that
// hangs costs one try: the next one goes to another endpoint.
const (
	getTimeout   = 900 * time.Millisecond // an outage is known within a second
	getTry       = 280 * time.Millisecond // so there are three of them
	whoTimeout   = 3 * time.Second
	listTimeout  = 5 * time.Second // of one page
	listTry      = 2500 * time.Millisecond
	grantTimeout = 3 * time.Second
	grantTry     = time.Second
	closeTimeout = 2 * time.Second
)

// Open connects to etcd. All problems of cfg are reported at once, joined; they
// wrap naming.ErrInsecureConfig where the configuration is well-formed but not
// safe.
//
// Open asks every endpoint at once and waits 2 s at most. It fails
//
//   - if a server that answers has known holes (ErrInsecureBackendVersion) or
//     has its access control off (ErrInsecureConfig);
//   - if no server is usable and one of them refused us or is not who it should
//     be: ErrUnauthenticated, or ErrUnavailable with the reason of crypto/x509 in
//     its chain;
//   - with ErrUnauthenticated if the server does not know the user;
//   - with ctx's error.
//
// It does not fail because servers are away: a process that starts during an
// outage works once it is over, and its calls give ErrUnavailable until then.
// Nothing is sent to a server before it was examined, at whatever time it comes
// back; of the password the package's documentation tells more.
//
// With Config.Client one server must answer, or Open gives ErrUnavailable.
func Open(ctx context.Context, cfg Config) (*Backend, error) {
	s, err := cfg.check()
	if err != nil {
		return nil, err
	}
	return open(ctx, s, rules{
		acceptVulnerable: s.InsecureAcceptVulnerableServer,
		acceptPlaintext:  s.InsecureDevelopmentOnly, acceptNoAuth: s.InsecureDevelopmentOnly,
	})
}

func open(ctx context.Context, s *settings, r rules) (*Backend, error) {
	b := &Backend{settings: s, log: s.Logger, life: driver.NewLife(ctx, driverName, s.Logger), rules: r}
	if s.InsecureDevelopmentOnly {
		b.log.Warn().Bool("alarm", true).Msg("InsecureDevelopmentOnly: servers without TLS and without access control are accepted: anybody may take any name")
	}
	if s.InsecureAcceptVulnerableServer {
		b.log.Warn().Bool("alarm", true).Msg("InsecureAcceptVulnerableServer: servers whose access control has known holes are accepted")
	}
	if err := b.connect(); err != nil {
		return nil, errors.Join(b.life.Fail("open", naming.Name{}, err), b.life.Close(0))
	}
	if err := b.first(ctx); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, errors.Join(b.life.Fail("open", naming.Name{}, err), b.Close())
	}
	return b, nil
}

func (b *Backend) connect() error {
	if b.client = b.settings.Client; b.client == nil {
		b.login = newLogin(b)
		b.guard = &guard{tls: b.settings.tls, rules: b.rules, log: b.log, login: b.login, links: links{several: len(b.settings.hosts) > 1}, hosts: len(b.settings.hosts), refused: map[string]error{}}
		var err error
		b.client, err = clientv3.New(clientv3.Config{
			Context:   b.life.Context(),
			Endpoints: b.settings.Endpoints,
			Logger:    zap.NewNop(),
			// One try: this package repeats itself, because clientv3 also repeats writes
			// whose outcome is unknown when the server's deadline was the shorter one.
			MaxUnaryRetries: 1,
			// gRPC does not allow less than 10 s. Watches and leases notice earlier, by
			// deadlines of their own.
			DialKeepAliveTime:    10 * time.Second,
			DialKeepAliveTimeout: 3 * time.Second,
			DialOptions: []grpc.DialOption{
				grpc.WithTransportCredentials(b.guard),
				grpc.WithChainUnaryInterceptor(b.guard.links.intercept),
				grpc.WithNoProxy(), // the guard examines the address that it is connected to
				grpc.WithConnectParams(grpc.ConnectParams{
					Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
					MinConnectTimeout: 5 * time.Second,
				}),
			},
		})
		if err != nil {
			return fmt.Errorf("%w: %w", naming.ErrInsecureConfig, err)
		}
	}
	conn := b.login.over(b.client.ActiveConnection())
	b.auth, b.kv, b.leasing, b.watch = pb.NewAuthClient(conn), pb.NewKVClient(conn), pb.NewLeaseClient(conn), pb.NewWatchClient(conn)
	b.hub.backend = b
	return nil
}

// first asks all servers before anybody else does.
func (b *Backend) first(ctx context.Context) error {
	if b.guard == nil {
		if err := b.rules.examineClient(ctx, b.client); err != nil {
			return err
		}
	} else {
		err := decide(b.settings.hosts, func(host string) error {
			err := b.guard.examine(ctx, host, host)
			b.guard.note(host, err)
			return err
		})
		switch {
		case err == nil:
		case definite(err) || ctx.Err() != nil:
			return err
		default:
			b.log.Warn().Err(err).Msg("no etcd server can be reached yet")
			return nil
		}
	}
	if _, err := b.WhoAmI(ctx); err != nil && definite(err) {
		return err
	}
	return ctx.Err()
}

// Get implements naming.Backend. An outage is known within a second.
func (b *Backend) Get(ctx context.Context, name naming.Name) (naming.Entry, error) {
	const op = "get"
	if name.IsZero() {
		return naming.Entry{}, b.life.Fail(op, name, driver.ErrZeroName)
	}
	var resp *pb.RangeResponse
	err := b.ask(ctx, getTimeout, getTry, func(ctx context.Context) (err error) {
		resp, err = b.kv.Range(ctx, &pb.RangeRequest{Key: []byte(b.settings.keys.of(name))}, callOptions...)
		return err
	})
	if err == nil && len(resp.Kvs) == 0 {
		err = naming.ErrNotFound
	}
	if err != nil {
		return naming.Entry{}, b.life.Fail(op, name, err)
	}
	return entry(name, resp.Kvs[0]), nil
}

func entry(name naming.Name, kv *mvccpb.KeyValue) naming.Entry {
	return naming.Entry{Name: name, Value: kv.Value, Revision: naming.Revision(kv.ModRevision), Held: kv.Lease != 0}
}

// WhoAmI implements naming.Identifier: Config.User or the common name of the
// certificate, once the server has confirmed that it takes us for that user. Where
// access control is off there is nobody to confirm it.
func (b *Backend) WhoAmI(ctx context.Context) (string, error) {
	const op = "whoami"
	who, err := b.settings.principal()
	if err != nil {
		return "", b.life.Fail(op, naming.Name{}, err)
	}
	if b.rules.acceptNoAuth {
		return who, nil
	}
	err = b.ask(ctx, whoTimeout, grantTry, func(ctx context.Context) error {
		// Everybody may ask for himself, and nobody but root for somebody else.
		_, err := b.auth.UserGet(ctx, &pb.AuthUserGetRequest{Name: who}, callOptions...)
		return err
	})
	switch {
	case errors.Is(err, naming.ErrUnauthenticated) && b.login == nil:
		err = fmt.Errorf("%w (etcdctl user add %s --no-password)", err, who)
	case errors.Is(err, naming.ErrDenied):
		err = fmt.Errorf("%w: the server takes us for somebody else than %q", naming.ErrUnauthenticated, who)
	}
	if err != nil {
		return "", b.life.Fail(op, naming.Name{}, err)
	}
	return who, nil
}

// Describe implements naming.Describer.
func (b *Backend) Describe() naming.Description {
	return naming.Description{
		Driver: driverName, MirrorAll: true, NamesPerLease: namesPerLease,
		DefaultTTL: b.settings.DefaultTTL, MinTTL: MinTTL,
	}
}

// Close implements naming.Backend. Its error says which leases could not be
// ended: their names are free after their TTL.
func (b *Backend) Close() error {
	err := b.life.Close(closeTimeout)
	if b.client != b.settings.Client {
		_ = b.client.Close() // its error is that the context it was given has ended
	}
	return err
}

// callOptions make a call wait for a connection, and take answers of any size.
var callOptions = []grpc.CallOption{grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(1<<31 - 1)}

// ask calls f, which must be harmless to repeat, until it succeeds, is refused,
// or total has passed.
func (b *Backend) ask(ctx context.Context, total, try time.Duration, f func(context.Context) error) error {
	within, cancel := b.life.Bound(ctx, total)
	defer cancel()
	return b.life.Explain(ctx, b.again(within, try, f))
}

// again is the loop of ask. The error is translated. A try that was cut short by
// the end of ctx knows less than the one before it.
func (b *Backend) again(ctx context.Context, try time.Duration, f func(context.Context) error) error {
	var before error
	for {
		err := b.once(ctx, try, f)
		if ctx.Err() != nil && before != nil && errors.Is(err, naming.ErrUnavailable) {
			return before
		}
		before = err
		if err == nil || !errors.Is(err, naming.ErrUnavailable) || driver.Pause(ctx, driver.RetryPause) != nil {
			return err
		}
	}
}

// once makes one try. The error is translated.
func (b *Backend) once(ctx context.Context, try time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, try)
	defer cancel()
	// Without this a server that has lost its leader lets calls wait for 7 s.
	return b.translate(f(clientv3.WithRequireLeader(ctx)))
}

// translate is the function of that name, which knows in addition why there is
// no connection.
func (b *Backend) translate(err error) error {
	err = translate(err)
	if !errors.Is(err, naming.ErrUnavailable) || b.guard == nil || b.client.ActiveConnection().GetState() == connectivity.Ready {
		return err
	}
	if reason := b.guard.reason(); reason != nil {
		return reason
	}
	return err
}

// clientCertificate gives the certificate that cfg would show.
func clientCertificate(cfg *tls.Config) (*x509.Certificate, error) {
	var cert *tls.Certificate
	switch {
	case cfg.GetClientCertificate != nil:
		var err error
		if cert, err = cfg.GetClientCertificate(&tls.CertificateRequestInfo{Version: tls.VersionTLS13}); err != nil {
			return nil, fmt.Errorf("TLSConfig.GetClientCertificate: %w", err)
		}
	case len(cfg.Certificates) > 0:
		cert = &cfg.Certificates[0]
	}
	if cert == nil || len(cert.Certificate) == 0 {
		return nil, fmt.Errorf("TLSConfig has no client certificate, which is what etcd knows users by: %w", naming.ErrUnauthenticated)
	}
	if cert.Leaf != nil {
		return cert.Leaf, nil
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("TLSConfig: the client certificate cannot be parsed: %w", err)
	}
	return leaf, nil
}
