package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"

	"github.com/seed-6593ebad/skywarden/internal/driver"
	"github.com/seed-6593ebad/skywarden/naming"
)

// A guard stands at the door of every connection: it makes the TLS handshake
// with the certificates as they are at that moment, and lets nobody use the
// connection before the server behind it has said that its version is safe and
// its access control on. So nothing is ever sent to a server that was not
// examined, also when one is replaced while this process runs. For a password see
// login.examine.
//
// It is gRPC's transport credentials.
type guard struct {
	tls   func() *tls.Config // nil: plaintext, in development
	rules rules
	log   zerolog.Logger
	links links
	login *login // nil: users are known by certificate

	hosts   int // how many endpoints there are
	mu      sync.Mutex
	refused map[string]error // by host:port: why the last connection was not made
}

var _ credentials.TransportCredentials = (*guard)(nil)

// rules say what a server must be like.
type rules struct {
	acceptVulnerable bool
	acceptPlaintext  bool
	acceptNoAuth     bool
}

// examineTimeout bounds the questions to a new server. Measured: 2 ms.
const examineTimeout = 2 * time.Second

// ClientHandshake implements credentials.TransportCredentials.
func (g *guard) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := g.handshake(ctx, authority, raw)
	if err == nil {
		if err = g.examine(ctx, raw.RemoteAddr().String(), authority); err != nil {
			_ = conn.Close() // it is refused; nothing was sent
		}
	}
	g.note(authority, err)
	if err != nil {
		return nil, nil, err
	}
	return g.links.add(conn), info, nil
}

func (g *guard) handshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if g.tls == nil {
		return insecure.NewCredentials().ClientHandshake(ctx, authority, raw)
	}
	cfg := g.tls()
	if cfg.ServerName != "" { // which gRPC replaces by the authority
		authority = cfg.ServerName
	}
	return credentials.NewTLS(cfg).ClientHandshake(ctx, authority, raw)
}

// examine asks the server at addr through a connection of its own.
func (g *guard) examine(ctx context.Context, addr, authority string) error {
	ctx, cancel := context.WithTimeout(ctx, examineTimeout)
	defer cancel()
	probe := &probe{guard: g}
	conn, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(probe), grpc.WithAuthority(authority), grpc.WithNoProxy())
	if err != nil {
		return err
	}
	defer g.login.close(conn)
	if g.login == nil {
		err = g.rules.check(ctx, conn)
	} else {
		err = g.login.examine(ctx, g.rules, conn)
	}
	if reason := probe.reason(); err != nil && reason != nil {
		return reason
	}
	return err
}

// check asks one server whether it is safe to use. The error is translated.
func (r rules) check(ctx context.Context, conn grpc.ClientConnInterface, opts ...grpc.CallOption) error {
	server, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{}, opts...)
	switch {
	case isEtcd(err, rpctypes.ErrPermissionDenied):
		err = errNoVersion
	case err != nil:
		return translate(err)
	default:
		err = checkVersion(server.Version)
	}
	if err != nil && !r.acceptVulnerable {
		return err
	}
	if r.acceptNoAuth {
		return nil
	}
	auth, err := pb.NewAuthClient(conn).AuthStatus(clientv3.WithRequireLeader(ctx), &pb.AuthStatusRequest{})
	if isEtcd(err, rpctypes.ErrPermissionDenied) {
		return nil // 3.5 and 3.6 tell it to root alone; where it is off everybody is root
	}
	if err != nil {
		return translate(err)
	}
	if !auth.Enabled {
		return errNoAuth
	}
	return nil
}

var errNoAuth = fmt.Errorf("%w: the server's access control is off, so anybody may take any name: give it users and roles, then etcdctl auth enable", naming.ErrInsecureConfig)

// note remembers why an endpoint cannot be used, and says so when the reason
// changes.
func (g *guard) note(authority string, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	before := g.refused[authority]
	if !definite(err) { // good, or just not there
		delete(g.refused, authority)
		return
	}
	g.refused[authority] = err
	if before == nil || before.Error() != err.Error() {
		alarm := errors.Is(err, naming.ErrInsecureBackendVersion) || errors.Is(err, naming.ErrInsecureConfig)
		g.log.Warn().Bool("alarm", alarm).Err(err).Str("endpoint", authority).Msg("etcd server refused")
	}
}

// reason gives why there is no connection: nil where servers were just not
// there. It is final where every server refused.
func (g *guard) reason() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []error
	for _, authority := range slices.Sorted(maps.Keys(g.refused)) {
		all = append(all, fmt.Errorf("%s: %w", authority, refusal(g.refused[authority])))
	}
	err := errors.Join(all...)
	if err != nil && len(g.refused) < g.hosts {
		return fmt.Errorf("%w: %v", naming.ErrUnavailable, err) //nolint:errorlint // the other servers may not refuse
	}
	return err
}

// refusal wraps the reason for which a connection was refused round a sentinel.
func refusal(err error) error {
	switch {
	case isContext(err):
		return fmt.Errorf("%w: no answer in time", naming.ErrUnavailable)
	case naming.Code(err) != "internal":
		return err
	}
	if refused := driver.RefusedCertificate(err); refused != nil {
		return refused
	}
	return fmt.Errorf("%w: %w", naming.ErrUnavailable, err)
}

// definite says whether a server was reached and refused, or is not who it
// should be: waiting would not help.
func definite(err error) bool {
	if err == nil {
		return false
	}
	var verification *tls.CertificateVerificationError
	var plaintext tls.RecordHeaderError
	switch {
	case errors.Is(err, naming.ErrInsecureBackendVersion), errors.Is(err, naming.ErrInsecureConfig),
		errors.Is(err, naming.ErrUnauthenticated), errors.Is(err, naming.ErrDenied):
		return true
	case errors.As(err, &verification), errors.As(err, &plaintext):
		return true
	}
	return driver.IsRemoteAlert(err)
}

// Info implements credentials.TransportCredentials.
func (g *guard) Info() credentials.ProtocolInfo {
	if g.tls == nil {
		return insecure.NewCredentials().Info()
	}
	return credentials.NewTLS(nil).Info()
}

// Clone implements credentials.TransportCredentials: there is one guard for all
// connections.
func (g *guard) Clone() credentials.TransportCredentials { return g }

// OverrideServerName implements credentials.TransportCredentials. It is of an
// option that nobody sets.
func (g *guard) OverrideServerName(string) error {
	return errors.New("the server's name is in the TLS configuration")
}

// ServerHandshake implements credentials.TransportCredentials. A guard is for
// clients.
func (g *guard) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("a guard is for clients")
}

// A probe is the credentials of the connection by which a guard examines a
// server. It remembers why the connection failed, of which gRPC keeps but a
// text. In TLS 1.3 a server looks at the client's certificate after the client
// thinks that the handshake is over, so its refusal arrives with the first
// read.
type probe struct {
	*guard

	mu    sync.Mutex
	cause error
}

// ClientHandshake implements credentials.TransportCredentials.
func (p *probe) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := p.handshake(ctx, authority, raw)
	if err != nil {
		p.keep(err)
		return nil, nil, err
	}
	return &probeConn{conn, p}, info, nil
}

// Clone implements credentials.TransportCredentials.
func (p *probe) Clone() credentials.TransportCredentials { return p }

func (p *probe) keep(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cause == nil {
		p.cause = err
	}
}

func (p *probe) reason() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cause
}

type probeConn struct {
	net.Conn
	probe *probe
}

func (c *probeConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil && driver.IsRemoteAlert(err) {
		c.probe.keep(err)
	}
	return n, err
}

// examineClient examines the servers of a client that is the user's own. One
// at least must answer, and none that answers may be bad.
func (r rules) examineClient(ctx context.Context, client *clientv3.Client) error {
	ctx, cancel := context.WithTimeout(ctx, examineTimeout)
	defer cancel()
	return decide(client.Endpoints(), func(endpoint string) error {
		conn, err := client.Dial(endpoint)
		if err != nil {
			return translate(err)
		}
		defer conn.Close()
		var server peer.Peer
		if err := r.check(ctx, conn, grpc.Peer(&server)); err != nil {
			return err
		}
		if !r.acceptPlaintext && (server.AuthInfo == nil || server.AuthInfo.AuthType() != "tls") {
			return fmt.Errorf("%w: Client talks to it without TLS", naming.ErrInsecureConfig)
		}
		return nil
	})
}

// decide examines all endpoints at once. A server that is unsafe condemns the
// cluster; otherwise one good server is enough. Where there is none, the error
// has every reason, and definite says whether waiting could help.
func decide(endpoints []string, examine func(endpoint string) error) error {
	problems := make([]error, len(endpoints))
	var wg sync.WaitGroup
	for i, endpoint := range endpoints {
		wg.Go(func() {
			if err := examine(endpoint); err != nil {
				problems[i] = fmt.Errorf("%s: %w", endpoint, refusal(err))
			}
		})
	}
	wg.Wait()
	all := errors.Join(problems...)
	if errors.Is(all, naming.ErrInsecureBackendVersion) || errors.Is(all, naming.ErrInsecureConfig) || !slices.Contains(problems, nil) {
		return all
	}
	return nil
}
