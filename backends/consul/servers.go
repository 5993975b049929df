package consul

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/seed-6593ebad/skywarden/internal/driver"
	"github.com/seed-6593ebad/skywarden/naming"
)

// servers are the addresses that requests go to: one after the other, each as
// long as it answers. The SDK's client knows one address, tries once and has no
// deadline.
type servers struct {
	settings  *settings
	transport *http.Transport
	clients   []*api.Client
	current   atomic.Int64
}

// maxConns is how many connections to one address are made at once. Without a
// limit a thousand watches that ask again at once make a thousand of them before
// the first one is there to be shared. Of HTTP/2 one that is full counts no more.
const maxConns = 16

var errNoHTTP2 = fmt.Errorf("%w: the server does not speak HTTP/2, over which a thousand watches share a few connections: is there something between that does not?", naming.ErrUnavailable)

// Times of connections. One that hangs is closed after sendPing + pingTimeout,
// whoever waits on it.
const (
	dialTimeout = 2 * time.Second
	sendPing    = 3 * time.Second
	pingTimeout = 2 * time.Second
)

func newServers(s *settings) (*servers, error) {
	dialer := &net.Dialer{Timeout: dialTimeout}
	transport := &http.Transport{
		// No proxy of the environment: what we send is for the server alone.
		DialContext: dialer.DialContext,
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			own := s.tls()
			own.NextProtos = []string{"h2", "http/1.1"}
			conn, err := (&tls.Dialer{NetDialer: dialer, Config: own}).DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			if secure, ok := conn.(*tls.Conn); ok && secure.ConnectionState().NegotiatedProtocol != "h2" {
				_ = conn.Close() // nothing was sent on it
				return nil, errNoHTTP2
			}
			return conn, nil
		},
		// HTTP/2, because a server takes 200 connections of one host
		// (http_max_conns_per_client), and each watch is a request that waits.
		ForceAttemptHTTP2: true,
		HTTP2:             &http.HTTP2Config{SendPingTimeout: sendPing, PingTimeout: pingTimeout},
		IdleConnTimeout:   90 * time.Second,
	}
	if s.tls != nil { // without TLS there is no HTTP/2
		transport.MaxConnsPerHost = maxConns
	}
	all := &servers{settings: s, transport: transport}
	client := &http.Client{
		Transport: &sender{transport, s},
		// A redirection could send the token to somebody else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	for _, host := range s.hosts {
		c, err := api.NewClient(&api.Config{
			Address: host, Scheme: s.scheme, HttpClient: client, Transport: transport, Datacenter: s.Datacenter,
			// Without one the SDK looks for a token, or a file with one, in the
			// environment. The sender puts ours in its place.
			Token: "replaced by the sender",
		})
		if err != nil {
			return nil, fmt.Errorf("%w: %w", naming.ErrInsecureConfig, err)
		}
		all.clients = append(all.clients, c)
	}
	return all, nil
}

// refusal gives why a server does not accept our certificate, if that is so. It
// says that after the handshake of TLS 1.3 and closes the connection; whoever
// writes meanwhile, as HTTP/2 does, may see just that it is closed. So this reads
// alone.
func (s *servers) refusal(ctx context.Context, host string) error {
	ctx, cancel := context.WithTimeout(ctx, refusalTimeout)
	defer cancel()
	if s.settings.tls == nil {
		return nil
	}
	conn, err := s.transport.DialTLSContext(ctx, "tcp", host)
	if err != nil {
		return driver.RefusedCertificate(err)
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetReadDeadline(deadline)
	_, err = conn.Read(make([]byte, 1))
	return driver.RefusedCertificate(err)
}

// refusalTimeout is added to what Open waits for a server that cannot be used.
const refusalTimeout = 500 * time.Millisecond

// pick gives the client to use now, and a function to tell when it did not
// answer: then the next one is picked.
func (s *servers) pick() (client *api.Client, failed func()) {
	at := s.current.Load()
	return s.clients[at%int64(len(s.clients))], func() { s.current.CompareAndSwap(at, at+1) }
}

// A sender puts our token on every request, and takes an answer only from a
// server that denies by default. There is no other way out of this package.
type sender struct {
	next     http.RoundTripper
	settings *settings
}

// RoundTrip implements http.RoundTripper.
func (s *sender) RoundTrip(request *http.Request) (*http.Response, error) {
	token, err := s.settings.secret(request.Context())
	if err != nil {
		return nil, err
	}
	request = request.Clone(request.Context()) // which may not be changed
	request.Header.Del("X-Consul-Token")
	if token != "" {
		request.Header.Set("X-Consul-Token", token)
	}
	// What the SDK takes from CONSUL_NAMESPACE and CONSUL_PARTITION, whatever its
	// Config says.
	query := request.URL.Query()
	query.Del("ns")
	query.Del("partition")
	request.URL.RawQuery = query.Encode()
	response, err := s.next.RoundTrip(request)
	if err != nil {
		return nil, withoutToken(err, token)
	}
	// Every answer of a server has it. Agents tell their own setting.
	if policy := response.Header.Get("X-Consul-Default-ACL-Policy"); policy != "deny" && !s.settings.InsecureDevelopmentOnly {
		_ = response.Body.Close() // it is not looked at
		return nil, errNotDeny(policy)
	}
	if response.StatusCode != http.StatusOK {
		if err := quotable(response, token); err != nil {
			return nil, err
		}
	}
	return response, nil
}

// maxQuote is how much is read of an answer that is no success.
const maxQuote = 4 << 10

// quotable makes the body of an answer fit for errors, which quote it: short, and
// without our token, which something on the way may have sent back.
func quotable(response *http.Response, token string) error {
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxQuote))
	if err != nil {
		return withoutToken(err, token)
	}
	response.Body = io.NopCloser(strings.NewReader(redact(string(body), token)))
	return nil
}

// withoutToken is for errors of net/http, which quote answers that are malformed.
func withoutToken(err error, token string) error {
	if text := redact(err.Error(), token); text != err.Error() {
		return errors.New(text)
	}
	return err
}

func redact(text, token string) string {
	if token == "" {
		return text
	}
	return strings.ReplaceAll(text, token, "[redacted]")
}

func errNotDeny(policy string) error {
	if policy != "allow" {
		return fmt.Errorf("%w: the answer does not say what is allowed by default, as one of Consul does: is the address that of something else?", naming.ErrUnavailable)
	}
	return fmt.Errorf("%w: what no policy speaks of is allowed there (default_policy is %q), so anybody may take any name: set acl.enabled and acl.default_policy = \"deny\", on agents too", naming.ErrInsecureConfig, policy)
}

// ask calls f, which must be harmless to repeat, until it succeeds, is refused,
// or total has passed.
func (b *Backend) ask(ctx context.Context, total, try time.Duration, f func(context.Context, *api.Client) error) error {
	within, cancel := b.life.Bound(ctx, total)
	defer cancel()
	return b.life.Explain(ctx, b.again(within, try, f))
}

// again is the loop of ask. The error is translated. A try that was cut short by
// the end of ctx knows less than the one before it.
func (b *Backend) again(ctx context.Context, try time.Duration, f func(context.Context, *api.Client) error) error {
	var before error
	for {
		client, failed := b.servers.pick()
		err := once(ctx, try, func(ctx context.Context) error { return f(ctx, client) })
		err = b.confirm(ctx, try, client, err)
		if err == nil || !errors.Is(err, naming.ErrUnavailable) {
			return err
		}
		if ctx.Err() != nil && before != nil {
			return before
		}
		before = err
		failed()
		if driver.Pause(ctx, driver.RetryPause) != nil {
			return err
		}
	}
}

// confirm looks whether a token is really unknown: a server that leads before it
// has read all of its log says so of every token, but not to consistent reads.
func (b *Backend) confirm(ctx context.Context, try time.Duration, client *api.Client, err error) error {
	if !errors.Is(err, naming.ErrUnauthenticated) {
		return err
	}
	if err := once(ctx, try, func(ctx context.Context) error { return b.self(ctx, client) }); err != nil {
		return err
	}
	return fmt.Errorf("%w: the server did not know the token yet", naming.ErrUnavailable)
}

// once makes one try. The error is translated.
func once(ctx context.Context, try time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, try)
	defer cancel()
	return translate(f(ctx))
}

// change sends a write until it is answered. do says whether it took effect.
// doubt says that beside the try that was answered there is one that was not,
// and that may have taken effect or may still: a server that waits for a leader
// holds a request for up to 7 s. The error is translated.
func (b *Backend) change(ctx context.Context, do func(*api.Client, *api.WriteOptions) (bool, error)) (done, doubt bool, err error) {
	start := time.Now()
	for {
		client, failed := b.servers.pick()
		try, cancel := context.WithTimeout(ctx, writeTry)
		sent := false
		traced := httptrace.WithClientTrace(try, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent = true }})
		done, err = do(client, b.writing(traced))
		cancel()
		if err == nil {
			return done, doubt, nil
		}
		known := judge(err)
		err = translate(err)
		if known == ambiguous && !sent {
			known = repeat
			if !errors.Is(err, naming.ErrUnavailable) {
				known = refused
			}
		}
		if errors.Is(err, naming.ErrUnauthenticated) {
			if err = b.confirm(ctx, writeTry, client, err); errors.Is(err, naming.ErrUnavailable) {
				known = repeat
			}
		}
		doubt = doubt || known == ambiguous
		if known == refused {
			return false, doubt, err
		}
		failed()
		if !doubt && time.Since(start) > writeTimeout || driver.Pause(ctx, driver.RetryPause) != nil {
			return false, doubt, err
		}
	}
}

// reading is for reads that see every write that has ended.
func (b *Backend) reading(ctx context.Context) *api.QueryOptions {
	return (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx)
}

func (b *Backend) writing(ctx context.Context) *api.WriteOptions {
	return (&api.WriteOptions{}).WithContext(ctx)
}
