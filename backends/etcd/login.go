package etcd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"

	"github.com/seed-6593ebad/skywarden/internal/secretfile"
	"github.com/seed-6593ebad/skywarden/naming"
)

// A login exchanges the password for a token, which every call then carries. A
// login costs the server some 50 to 90 ms of one core (bcrypt), so there is one
// for all calls and connections of a Backend, only when there is no token or the
// server has refused the one there is, one at a time, and after failures later
// and later.
//
// clientv3 has logins too. It makes one per call that was refused, and opens
// watches again and again with the token that has expired.
type login struct {
	user     string
	password func() Secret
	life     context.Context
	start    func(func()) error // Life.Start
	log      zerolog.Logger

	mu     sync.Mutex
	token  string // "": none
	since  time.Time
	flight *flight

	failed    error  // why the last login gave no token that lasts, or nil
	tried     Secret // the password of that login
	failures  int    // how many there were one after the other
	brief     int    // how many tokens one after the other did not last
	notBefore time.Time
}

// A flight is a login that is under way.
type flight struct {
	conn  *grpc.ClientConn
	done  chan struct{}
	token string
	err   error
}

// Times of logins.
const (
	loginTimeout = 3 * time.Second
	loginPause   = 200 * time.Millisecond // after a failure, doubled by each further one
	refusedPause = 5 * time.Second        // the longest one while the password is refused
	awayPause    = time.Second            // the longest one while there is no answer
	lasts        = 3 * time.Second        // a token that is refused earlier counts as a failure
)

// newLogin gives nil where users are known by certificate.
func newLogin(b *Backend) *login {
	if b.settings.password == nil {
		return nil
	}
	return &login{user: b.settings.User, password: b.settings.password, life: b.life.Context(), start: b.life.Start, log: b.log}
}

// over gives conn with the token on every call. A nil login adds nothing.
func (l *login) over(conn *grpc.ClientConn) grpc.ClientConnInterface {
	if l == nil {
		return conn
	}
	return &loggedIn{l, conn}
}

// A loginError is why there is no token: the call was not sent.
type loginError struct{ err error }

func (e *loginError) Error() string { return e.err.Error() }
func (e *loginError) Unwrap() error { return e.err }

// get gives the token, and logs in through conn if there is none. conn must be
// one whose server was examined as far as that is possible without a token. Its
// errors are loginErrors.
func (l *login) get(ctx context.Context, conn *grpc.ClientConn) (string, error) {
	l.mu.Lock()
	if l.token != "" {
		defer l.mu.Unlock()
		return l.token, nil
	}
	f := l.flight
	if f == nil {
		password := l.password()
		if l.failed != nil && password == l.tried && time.Now().Before(l.notBefore) {
			defer l.mu.Unlock()
			return "", &loginError{l.failed}
		}
		f = &flight{conn: conn, done: make(chan struct{})}
		l.flight = f
		l.mu.Unlock()
		// Not within ctx: others wait for it too, and what the server has computed
		// shall not be thrown away.
		fly := func() { l.fly(f, password) }
		if l.start(fly) != nil {
			fly() // the Backend is being closed: leases are still to be revoked
		}
	} else {
		l.mu.Unlock()
	}
	select {
	case <-f.done:
		return f.token, f.err
	case <-ctx.Done():
		return "", &loginError{fmt.Errorf("%w: there was no time to log in", naming.ErrUnavailable)}
	}
}

// fly logs in.
func (l *login) fly(f *flight, password Secret) {
	ctx, cancel := context.WithTimeout(clientv3.WithRequireLeader(l.life), loginTimeout)
	var watching sync.WaitGroup
	// A connection that is made anew asks for a token itself before it is ready, so
	// nobody may wait for it here.
	watching.Go(func() {
		if f.conn.GetState() != connectivity.Ready || f.conn.WaitForStateChange(ctx, connectivity.Ready) {
			cancel()
		}
	})
	begin := time.Now()
	resp, err := pb.NewAuthClient(f.conn).Authenticate(ctx, &pb.AuthenticateRequest{Name: l.user, Password: secretfile.Reveal(password)})
	cancel()
	watching.Wait()

	l.mu.Lock()
	defer l.mu.Unlock()
	defer close(f.done)
	l.flight = nil
	l.tried = password
	if err != nil {
		l.failed = l.explain(err)
		longest := awayPause
		if !errors.Is(l.failed, naming.ErrUnavailable) {
			longest = refusedPause
			if l.failures == 0 {
				l.log.Warn().Err(l.failed).Str("user", l.user).Msg("login refused")
			}
		}
		l.pause(l.failures, longest)
		l.failures++
		f.err = &loginError{l.failed}
		return
	}
	l.failed, l.failures = nil, 0
	l.token, l.since = resp.Token, time.Now()
	f.token = l.token
	l.log.Debug().Str("user", l.user).Dur("took", time.Since(begin)).Msg("logged in")
}

// explain says what it means that a login failed.
func (l *login) explain(err error) error {
	switch {
	case isEtcd(err, rpctypes.ErrAuthFailed):
		// The server says the same of a user that it does not know.
		return fmt.Errorf("%w: the server does not accept the user %q with this password", naming.ErrUnauthenticated, l.user)
	case strings.Contains(message(err), "no password user"): // for which there is no code
		return fmt.Errorf("%w: the user %q was made with --no-password: give it a password, or use its client certificate", naming.ErrUnauthenticated, l.user)
	case isEtcd(err, rpctypes.ErrAuthNotEnabled):
		return errNoAuth
	}
	return fmt.Errorf("%w: login: %s", naming.ErrUnavailable, message(err))
}

// pause keeps logins back, for longer with each of n failures before; half of
// the time is random, because many clients lose their tokens at once. l.mu is
// held.
func (l *login) pause(n int, longest time.Duration) {
	d := min(loginPause<<min(n, 10), longest)
	l.notBefore = time.Now().Add(d/2 + rand.N(d/2)) //nolint:gosec // spreads load
}

// refused says whether err is the server's refusal of token, which is then not
// used again. Such a call had no effect: it may be repeated with another token.
func (l *login) refused(token string, err error) bool {
	switch {
	case isEtcd(err, rpctypes.ErrInvalidAuthToken):
	// A JWT is good for one revision of the server's permissions only. For the
	// server's own tokens it is a matter of the very moment.
	case isEtcd(err, rpctypes.ErrAuthOldRevision) && strings.Count(token, ".") == 2:
	default:
		return false
	}
	l.drop(token)
	return true
}

// drop forgets token, if it is still in use.
func (l *login) drop(token string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if token == "" || l.token != token {
		return
	}
	l.token = ""
	if time.Since(l.since) >= lasts {
		l.brief = 0
		return
	}
	if l.brief++; l.brief > 1 {
		l.failed = fmt.Errorf("%w: the server refuses the tokens that it gives", naming.ErrUnavailable)
		l.pause(l.brief-2, refusedPause)
	}
}

// examine asks a new server whether it is safe to use, as rules.check does. What
// it sends, once TLS has proved that the server is one of ours:
//
//  1. Status and AuthStatus without any token. A server that answers shows that
//     it is too old, or that its access control is off, or that nothing is wrong;
//     from the ones that are not safe the password stays hidden.
//  2. Where Status is only for users (3.7.3: that says that access control is on)
//     the user and the password, if there is no token yet. Then both questions
//     with the token.
func (l *login) examine(ctx context.Context, r rules, conn *grpc.ClientConn) error {
	err := r.check(ctx, conn)
	if !errors.Is(err, naming.ErrUnauthenticated) {
		return err
	}
	token, err := l.get(ctx, conn)
	if err != nil {
		return err
	}
	within, cancel := context.WithTimeout(ctx, examineTimeout/2)
	defer cancel()
	_, err = pb.NewMaintenanceClient(conn).Status(withToken(within, token), &pb.StatusRequest{})
	if ctx.Err() == nil && within.Err() != nil {
		// A server that answers without a token and not with one waits for the raft
		// index at which the token was made: it was restored from a snapshot.
		l.drop(token)
		return translate(err)
	}
	return r.check(ctx, l.over(conn))
}

// close closes conn, once no login uses it any more.
func (l *login) close(conn *grpc.ClientConn) {
	shut := func() { _ = conn.Close() } // everything that it was for is done
	if l != nil {
		l.mu.Lock()
		f := l.flight
		l.mu.Unlock()
		if f != nil && f.conn == conn && l.start(func() { <-f.done; shut() }) == nil {
			return
		}
	}
	shut()
}

// A loggedIn is a connection whose calls carry the token.
type loggedIn struct {
	login *login
	conn  *grpc.ClientConn
}

// Invoke implements grpc.ClientConnInterface. A call whose token is refused is
// made a second time, with a new one.
func (c *loggedIn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	for first := true; ; first = false {
		token, err := c.token(ctx)
		if err != nil {
			return err
		}
		err = c.conn.Invoke(withToken(ctx, token), method, args, reply, opts...)
		if !c.login.refused(token, err) || !first {
			return err
		}
	}
}

// NewStream implements grpc.ClientConnInterface. The token is that of the moment
// at which the stream is opened, and the server looks at it whenever it likes:
// see tokenStream.
func (c *loggedIn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	token, err := c.token(ctx)
	if err != nil {
		return nil, err
	}
	stream, err := c.conn.NewStream(withToken(ctx, token), desc, method, opts...)
	if err != nil {
		c.login.refused(token, err)
		return nil, err
	}
	return &tokenStream{stream, c.login, token}, nil
}

// token waits for a connection before it logs in: see fly.
func (c *loggedIn) token(ctx context.Context) (string, error) {
	c.login.mu.Lock()
	token := c.login.token
	c.login.mu.Unlock()
	if token != "" {
		return token, nil
	}
	for state := c.conn.GetState(); state != connectivity.Ready; state = c.conn.GetState() {
		if state == connectivity.Idle {
			c.conn.Connect()
		}
		if !c.conn.WaitForStateChange(ctx, state) {
			return "", &loginError{fmt.Errorf("%w: no connection in time", naming.ErrUnavailable)}
		}
	}
	return c.login.get(ctx, c.conn)
}

func withToken(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, token)
}

// errNewToken ends a watch stream whose token is refused. It is no outage.
var errNewToken = fmt.Errorf("%w: the watch needs a new token", naming.ErrUnavailable)

// A tokenStream is a stream that carries a token. It notices when the token is
// refused, so that the next stream gets a new one.
type tokenStream struct {
	grpc.ClientStream
	login *login
	token string
}

// RecvMsg implements grpc.ClientStream. A watch stream lives on when the server
// refuses a watch of it, but with this token it will refuse every further one:
// so the stream ends, with errNewToken.
func (s *tokenStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if resp, isWatch := m.(*pb.WatchResponse); isWatch && err == nil && resp.Created && resp.Canceled {
		if s.login.refused(s.token, canceled(resp.CancelReason)) {
			return errNewToken
		}
		return nil
	}
	s.login.refused(s.token, err)
	return err
}
