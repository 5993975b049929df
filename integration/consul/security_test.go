package consul_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"

	"github.com/seed-6593ebad/skywarden/backends/consul"
	"github.com/seed-6593ebad/skywarden/integration/harness"
	"github.com/seed-6593ebad/skywarden/internal/testca"
	"github.com/seed-6593ebad/skywarden/naming"
)

// refuses opens and wants an error of that kind, soon.
func refuses(t *testing.T, cfg consul.Config, kind error) {
	t.Helper()
	_ = refused(t, cfg, kind)
}

// refused is refuses that gives the error.
func refused(t *testing.T, cfg consul.Config, kind error) error {
	t.Helper()
	begin := time.Now()
	b, err := consul.Open(t.Context(), cfg)
	if err == nil {
		b.Close()
		t.Fatalf("Open succeeds, want %v", kind)
	}
	if !errors.Is(err, kind) || naming.Code(err) != naming.Code(kind) {
		t.Errorf("Open: %v (%s), want %v", err, naming.Code(err), kind)
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("Open took %v to fail", took)
	}
	t.Log(err)
	return err
}

// serve runs an HTTPS server with a certificate of ca, unless change says
// otherwise, until the test ends. It gives its URL.
func serve(t *testing.T, ca *testca.CA, handler http.Handler, change func(*tls.Config)) string {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = true
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{ca.Server(t, "127.0.0.1").TLS()}}
	if change != nil {
		change(server.TLS)
	}
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	return server.URL
}

// relay passes everything on to the server, and lets change see the answers.
func relay(t *testing.T, server *harness.Consul, change func(*http.Response) error) http.Handler {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: server.ClientTLS(t), ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &httputil.ReverseProxy{
		Rewrite:        func(p *httputil.ProxyRequest) { p.SetURL(&url.URL{Scheme: "https", Host: server.Address}) },
		Transport:      transport,
		ModifyResponse: change,
		ErrorLog:       slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
}

// at is cfg with another address.
func at(cfg consul.Config, url string) consul.Config {
	cfg.Addresses = []string{url}
	return cfg
}

// workout does everything that a Backend can do, and a few seconds of its
// routine.
func workout(t *testing.T, cfg consul.Config) {
	t.Helper()
	b := open(t, cfg)
	if who, err := b.WhoAmI(t.Context()); err != nil || who != "alice" {
		t.Errorf("WhoAmI: %q, %v", who, err)
	}
	only, family, all := harness.Watch(t, b, scope(t, "a.x")), harness.Watch(t, b, scope(t, "a.")), harness.Watch(t, b, naming.All())
	watches := []*harness.WatchLog{only, family, all}
	for _, w := range watches {
		w.Wait("synced", 1, 5*time.Second)
	}
	l, other := lease(t, b), lease(t, b)
	rev := claim(t, l, "a.x", "1")
	rev, err := l.Update(t.Context(), name(t, "a.x"), []byte("2"), rev)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Claim(t.Context(), name(t, "a.x"), []byte("3"), rev); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Get(t.Context(), name(t, "a.x")); err != nil {
		t.Error(err)
	}
	for _, w := range watches {
		w.Wait("put a.x=3 held=true", 1, 5*time.Second)
	}
	before := other.Deadline()
	eventually(t, 2*ttl, "two renewals", func() bool { return other.Deadline().After(before.Add(ttl / 3)) })
	_, err = other.Claim(t.Context(), name(t, "b.x"), nil, 0)
	mustBe(t, err, naming.ErrDenied)
	if err := errors.Join(other.Release(t.Context(), name(t, "a.x")), other.Close(t.Context())); err != nil {
		t.Error(err)
	}
	for _, w := range watches {
		w.Wait("delete a.x", 1, 5*time.Second)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// checkRequests looks at every request of a workout.
func checkRequests(t *testing.T, requests []harness.RecordedRequest, token string) {
	t.Helper()
	kinds := map[string]int{}
	for _, r := range requests {
		line := fmt.Sprintf("%s %s?%s", r.Method, r.Path, r.Query.Encode())
		if r.Token != token {
			t.Errorf("another token, or none: %s", line)
		}
		if strings.Contains(line, token) {
			t.Errorf("the token is in the URL: %s", line)
		}
		if r.Proto != "HTTP/2.0" {
			t.Errorf("%s: %s", r.Proto, line)
		}
		kind := r.Method + " " + r.Path
		switch {
		case strings.HasPrefix(r.Path, "/v1/kv/"+root+"/names/"):
			kind = r.Method + " kv"
			for parameter := range r.Query {
				switch parameter {
				case "recurse", "index", "acquire", "cas":
					kind += " " + parameter
				case "consistent", "wait", "flags":
				default:
					t.Errorf("an unexpected parameter: %s", line)
				}
			}
			if r.Method == http.MethodGet && !r.Query.Has("consistent") {
				t.Errorf("a read that may be old: %s", line)
			}
			if strings.Contains(kind, "recurse") && !strings.HasSuffix(r.Path, "/") {
				t.Errorf("a prefix without its last slash: %s", line)
			}
		case strings.HasPrefix(r.Path, "/v1/session/renew/"):
			kind = "renew"
		case strings.HasPrefix(r.Path, "/v1/session/destroy/"):
			kind = "destroy"
		}
		kinds[strings.Replace(kind, "index recurse", "recurse index", 1)]++
	}
	for _, kind := range []string{
		"GET /v1/acl/token/self", "GET /v1/status/leader", "PUT /v1/session/create", "renew", "destroy",
		"GET kv", "GET kv index", "GET kv recurse", "GET kv recurse index", "PUT kv acquire", "PUT kv cas", "DELETE kv cas",
	} {
		if kinds[kind] == 0 {
			t.Errorf("there was no %q", kind)
		}
		delete(kinds, kind)
	}
	for kind := range kinds { // /v1/txn, /v1/catalog and /v1/agent among them
		t.Errorf("an unexpected request: %s", kind)
	}
}

// Seen elsewhere: watches are asked for without the token, and get what
// everybody may see.
func TestPeersMistakeTokenOnWatches(t *testing.T) {
	t.Parallel()
	server := start(t)
	token := principal(t, server.ConsulAccess, "alice", rights(t, "alice"))
	recorder := harness.NewHTTPRecorder(t, server.CA, server.Address)
	workout(t, at(configWith(t, server.ConsulAccess, "alice", token), recorder.URL()))
	checkRequests(t, recorder.Requests(), token)
}

// Nothing of Consul's environment changes what is sent, to whom, or whom we
// trust. (For proxies see the driver's own tests.)
func TestEnvironmentChangesNothing(t *testing.T) {
	server := start(t)
	token := principal(t, server.ConsulAccess, "alice", rights(t, "alice"))
	recorder := harness.NewHTTPRecorder(t, server.CA, server.Address)
	elsewhere := harness.NewHTTPRecorder(t, server.CA, server.Address)
	cfg := at(configWith(t, server.ConsulAccess, "alice", token), recorder.URL())
	foreign := testca.New(t)
	dir := t.TempDir()
	cert, certKey := foreign.Client(t, "mallory").WriteFiles(t, dir, "mallory")
	for variable, value := range map[string]string{
		"CONSUL_HTTP_TOKEN": server.ManagementToken, "CONSUL_HTTP_AUTH": "user:password", "CONSUL_HTTP_ADDR": elsewhere.URL(),
		"CONSUL_HTTP_SSL": "false", "CONSUL_HTTP_SSL_VERIFY": "false", "CONSUL_TLS_SERVER_NAME": "elsewhere",
		"CONSUL_NAMESPACE": "other", "CONSUL_PARTITION": "other",
		"CONSUL_CACERT": foreign.WriteFile(t, dir, "ca"), "CONSUL_CLIENT_CERT": cert, "CONSUL_CLIENT_KEY": certKey,
	} {
		t.Setenv(variable, value)
	}
	t.Run("no file", func(t *testing.T) {
		t.Setenv("CONSUL_HTTP_TOKEN_FILE", filepath.Join(dir, "none"))
		if err := open(t, cfg).Close(); err != nil {
			t.Error(err)
		}
	})
	t.Run("everything", func(t *testing.T) {
		file := filepath.Join(dir, "token")
		if err := os.WriteFile(file, []byte(server.ManagementToken), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv("CONSUL_HTTP_TOKEN_FILE", file)
		recorder.Forget()
		workout(t, cfg)
		checkRequests(t, recorder.Requests(), token)
	})
	t.Run("verification stays on", func(t *testing.T) {
		cfg := cfg
		cfg.TLS.CAFile = foreign.WriteFile(t, t.TempDir(), "ca")
		recorder.Forget()
		if err := refused(t, cfg, naming.ErrUnavailable); !errors.As(err, &x509.UnknownAuthorityError{}) {
			t.Errorf("the reason is not an unknown authority: %v", err)
		}
		if requests := recorder.Requests(); len(requests) != 0 {
			t.Errorf("%d requests to a server that is not known", len(requests))
		}
	})
	if requests := elsewhere.Requests(); len(requests) != 0 {
		t.Errorf("%d requests went to the address of the environment", len(requests))
	}
}

func TestRedirectionIsNotFollowed(t *testing.T) {
	t.Parallel()
	server := start(t)
	cfg := config(t, server.ConsulAccess, "alice")
	elsewhere := harness.NewHTTPRecorder(t, server.CA, server.Address)
	var on atomic.Bool
	through := relay(t, server, nil)
	here := serve(t, server.CA, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !on.Load() {
			through.ServeHTTP(w, r)
			return
		}
		w.Header().Set("X-Consul-Default-ACL-Policy", "deny")
		http.Redirect(w, r, elsewhere.URL()+r.URL.RequestURI(), http.StatusTemporaryRedirect)
	}), nil)
	b := open(t, at(cfg, here))
	watch := harness.Watch(t, b, scope(t, "a.x"))
	watch.Wait("synced", 1, 5*time.Second)
	l := lease(t, b)
	on.Store(true)
	_, err := b.Get(t.Context(), name(t, "a.x"))
	mustBe(t, err, naming.ErrUnavailable)
	_, err = l.Claim(t.Context(), name(t, "a.x"), nil, 0)
	if err == nil {
		t.Error("claimed by a redirection")
	}
	if _, err = b.Lease(t.Context(), 0); err == nil {
		t.Error("a lease by a redirection")
	}
	watch.Wait("down", 1, 15*time.Second)
	if requests := elsewhere.Requests(); len(requests) != 0 {
		t.Errorf("%d requests were sent elsewhere, first %s %s with token %t", len(requests), requests[0].Method, requests[0].Path, requests[0].Token != "")
	}
	on.Store(false)
	watch.Wait("synced", 2, 15*time.Second)
}

// A logBuffer is where all levels are logged to.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (l *logBuffer) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// A canary is a secret that must not be printed.
type canary struct {
	t      *testing.T
	secret string
}

// check looks for the secret in everything that may be printed of what.
func (c *canary) check(where string, what any) {
	c.t.Helper()
	// Not %q and the like: they go through pointers, into what others are writing to.
	texts := []string{fmt.Sprint(what), fmt.Sprintf("%+v", what), fmt.Sprintf("%#v", what)}
	if text, err := json.Marshal(what); err == nil {
		texts = append(texts, string(text))
	}
	for _, text := range texts {
		if strings.Contains(text, c.secret) {
			c.t.Errorf("%s: the token is in %s", where, text)
		}
	}
}

func TestThreat28TokenIsNeverPrinted(t *testing.T) {
	t.Parallel()
	server := start(t)
	token := principal(t, server.ConsulAccess, "alice", rights(t, "alice"))
	c := &canary{t: t, secret: token}
	cfg := configWith(t, server.ConsulAccess, "alice", token)
	var log logBuffer
	cfg.Logger = zerolog.New(&log).Level(zerolog.DebugLevel)
	c.check("Config", cfg)
	c.check("*Config", &cfg)
	c.check("Secret", []any{cfg.Token, &cfg.Token, struct{ token consul.Secret }{cfg.Token}})
	failed := func(where string, err error) {
		t.Helper()
		if err == nil {
			t.Errorf("%s: no error", where)
		}
		c.check(where, err)
		for ; err != nil; err = errors.Unwrap(err) {
			c.check(where, err)
		}
	}
	// try fails in every way that a Backend can.
	var trying sync.WaitGroup
	try := func(where string, cfg consul.Config) {
		trying.Go(func() {
			b, err := consul.Open(t.Context(), cfg)
			if err != nil {
				failed(where+": open", err)
				return
			}
			_, err = b.WhoAmI(t.Context())
			failed(where+": whoami", err)
			_, err = b.Get(t.Context(), name(t, "a.x"))
			failed(where+": get", err)
			_, err = b.Lease(t.Context(), 0)
			failed(where+": lease", err)
			for event, err := range b.Watch(t.Context(), scope(t, "a.x")) {
				if err != nil || event.Err != nil {
					failed(where+": watch", errors.Join(err, event.Err))
					break
				}
			}
			b.Close()
			c.check(where+": Backend", b)
		})
	}

	var repeated atomic.Int32
	for _, answer := range []struct {
		status int
		policy string
	}{{200, "deny"}, {307, "deny"}, {400, "deny"}, {403, "deny"}, {500, "deny"}, {503, "deny"}, {500, "allow"}, {500, ""}, {500, "token"}} {
		try(fmt.Sprintf("status %d, policy %q", answer.status, answer.policy), at(cfg, serve(t, server.CA, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			repeat := r.Header.Get("X-Consul-Token")
			if repeat == token {
				repeated.Add(1)
			}
			w.Header().Set("X-Consul-Default-ACL-Policy", strings.Replace(answer.policy, "token", repeat, 1))
			w.Header().Set("Location", "https://127.0.0.1:1/"+repeat)
			w.WriteHeader(answer.status)
			_, _ = fmt.Fprintf(w, "%s %q", repeat, repeat)
		}), nil)))
	}
	// An answer that net/http does not understand, and quotes.
	malformed := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 %s\r\n\r\n", r.Header.Get("X-Consul-Token"))
	}))
	defer malformed.Close()
	plain := at(cfg, malformed.URL)
	plain.TLS, plain.InsecureDevelopmentOnly = consul.TLS{}, true
	try("malformed", plain)
	trying.Wait()
	if repeated.Load() < 30 {
		t.Fatalf("the token was sent back %d times only: this test shows nothing", repeated.Load())
	}

	// The usual life, with refusals, up to the end of the token.
	b := open(t, cfg)
	l := lease(t, b)
	claim(t, l, "a.x", "1")
	_, err := l.Claim(t.Context(), name(t, "b.x"), nil, 0)
	failed("denied", err)
	server.RevokeToken(t, token)
	_, err = l.Claim(t.Context(), name(t, "a.y"), nil, 0)
	failed("revoked", err)
	lostBy(t, l)
	failed("close", b.Close())
	c.check("Backend", b)
	c.check("Lease", l)
	if text := log.String(); strings.Contains(text, token) || !strings.Contains(text, "not renewed") {
		t.Errorf("the log has the token in it, or too little of anything:\n%s", text)
	}
}

func TestThreat8And32Certificates(t *testing.T) {
	t.Parallel()
	server := start(t)
	good := config(t, server.ConsulAccess, "alice")
	foreign := testca.New(t)
	through := relay(t, server, nil)
	invalid := func(t *testing.T, err error) {
		t.Helper()
		if reason, ok := errors.AsType[x509.CertificateInvalidError](err); !ok || reason.Reason != x509.Expired {
			t.Errorf("the reason is not the certificate's time: %v", err)
		}
	}
	t.Run("another CA than the server's", func(t *testing.T) {
		cfg := good
		cfg.TLS.CAFile = foreign.WriteFile(t, t.TempDir(), "ca")
		if err := refused(t, cfg, naming.ErrUnavailable); !errors.As(err, &x509.UnknownAuthorityError{}) {
			t.Errorf("the reason is not an unknown authority: %v", err)
		}
	})
	t.Run("another host name", func(t *testing.T) {
		cfg := good
		cfg.TLS.ServerName = "consul.internal"
		if err := refused(t, cfg, naming.ErrUnavailable); !errors.As(err, &x509.HostnameError{}) {
			t.Errorf("the reason is not the host name: %v", err)
		}
	})
	t.Run("not valid yet", func(t *testing.T) {
		early := server.CA.Issue(t, testca.Request{Server: true, Hosts: []string{"127.0.0.1"}, NotBefore: time.Now().Add(time.Hour)})
		url := serve(t, server.CA, through, func(c *tls.Config) { c.Certificates = []tls.Certificate{early.TLS()} })
		invalid(t, refused(t, at(good, url), naming.ErrUnavailable))
	})
	t.Run("expired", func(t *testing.T) {
		server := harness.StartConsul(t, harness.ConsulOptions{ServerCert: func(tb testing.TB, ca *testca.CA) testca.Cert {
			tb.Helper()
			return ca.Issue(tb, testca.Request{Server: true, Hosts: []string{"127.0.0.1"}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)})
		}})
		invalid(t, refused(t, configWith(t, server.ConsulAccess, "alice", server.ManagementToken), naming.ErrUnavailable))
	})
	t.Run("certificate of a client", func(t *testing.T) {
		client := server.CA.Issue(t, testca.Request{Client: true, Hosts: []string{"127.0.0.1"}})
		url := serve(t, server.CA, through, func(c *tls.Config) { c.Certificates = []tls.Certificate{client.TLS()} })
		refuses(t, at(good, url), naming.ErrUnavailable)
	})
	t.Run("TLS 1.2", func(t *testing.T) {
		url := serve(t, server.CA, through, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 })
		err := refused(t, at(good, url), naming.ErrUnavailable)
		if !strings.Contains(err.Error(), "version") {
			t.Errorf("the error does not speak of the version: %v", err)
		}
		// U: accepted where that is asked for.
		cfg := at(good, url)
		cfg.TLS.AllowTLS12 = true
		if _, err := open(t, cfg).WhoAmI(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Run("one good address is enough", func(t *testing.T) {
		cfg := good
		cfg.Addresses = append([]string{serve(t, foreign, through, nil)}, good.Addresses...)
		claim(t, lease(t, open(t, cfg)), "a.one", "1")
	})
}

func TestThreat30Plaintext(t *testing.T) {
	t.Parallel()
	server := start(t)
	good := config(t, server.ConsulAccess, "alice")
	var asked atomic.Int32
	through := relay(t, server, nil)
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		through.ServeHTTP(w, r)
	}))
	defer func() { plain.CloseClientConnections(); plain.Close() }()
	refuses(t, at(good, strings.Replace(plain.URL, "http:", "https:", 1)), naming.ErrUnavailable)
	cfg := at(good, plain.URL)
	cfg.TLS = consul.TLS{}
	refuses(t, cfg, naming.ErrInsecureConfig)
	if asked.Load() != 0 {
		t.Errorf("%d requests were sent without TLS", asked.Load())
	}

	// U: where it is asked for, it works, and whoever listens has the token.
	var log bytes.Buffer
	cfg.InsecureDevelopmentOnly, cfg.Logger = true, zerolog.New(&log)
	b := open(t, cfg)
	claim(t, lease(t, b), "a.x", "1")
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if asked.Load() == 0 || !strings.Contains(log.String(), `"alarm":true`) {
		t.Errorf("%d requests, and no alarm in the log: %s", asked.Load(), log.String())
	}
}

// A server that asks for client certificates beside the token; and the files that
// we know it and it knows us by, replaced on disk.
func TestThreat32ClientCertificates(t *testing.T) {
	t.Parallel()
	server := harness.StartConsul(t, harness.ConsulOptions{ClientCerts: true})
	foreign := testca.New(t)
	dir := t.TempDir()
	cfg := config(t, server.ConsulAccess, "alice")
	t.Run("without", func(t *testing.T) { refuses(t, cfg, naming.ErrUnauthenticated) })
	t.Run("of another CA", func(t *testing.T) {
		cfg := cfg
		cfg.TLS.CertFile, cfg.TLS.KeyFile = foreign.Client(t, "alice").WriteFiles(t, t.TempDir(), "foreign")
		refuses(t, cfg, naming.ErrUnauthenticated)
	})
	t.Run("expired", func(t *testing.T) {
		expired := server.CA.Issue(t, testca.Request{CommonName: "alice", Client: true, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)})
		cfg := cfg
		cfg.TLS, cfg.TLSConfig = consul.TLS{}, &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: server.CA.Pool(), Certificates: []tls.Certificate{expired.TLS()}}
		refuses(t, cfg, naming.ErrUnauthenticated)
	})
	t.Run("followed on disk", func(t *testing.T) {
		proxy := harness.NewProxy(t, server.Address)
		cfg := at(cfg, "https://"+proxy.Address())
		cfg.TLS.CertFile, cfg.TLS.KeyFile = server.CA.Client(t, "alice").WriteFiles(t, dir, "client")
		cfg.TLS.CAFile = server.CA.WriteFile(t, dir, "ca")
		b := open(t, cfg)
		get := func() error { _, err := b.Get(t.Context(), name(t, "a.x")); return err }
		becomes := func(what string, kind error) {
			t.Helper()
			proxy.Cut()
			proxy.Heal()
			eventually(t, 5*time.Second, what, func() bool { return errors.Is(get(), kind) })
		}
		becomes("good files", naming.ErrNotFound)
		foreign.Client(t, "alice").WriteFiles(t, dir, "client")
		becomes("a certificate that the server does not know", naming.ErrUnauthenticated)
		server.CA.Client(t, "alice").WriteFiles(t, dir, "client")
		becomes("a good certificate again", naming.ErrNotFound)
		foreign.WriteFile(t, dir, "ca")
		becomes("a CA that is not the server's", naming.ErrUnavailable)
		eventually(t, 5*time.Second, "the reason is an unknown authority", func() bool { return errors.As(get(), &x509.UnknownAuthorityError{}) })
		server.CA.WriteFile(t, dir, "ca")
		becomes("the server's CA again", naming.ErrNotFound)
	})
}

func TestServerThatAllows(t *testing.T) {
	t.Parallel()
	for what, acl := range map[string]map[string]any{
		"by default": {"default_policy": "allow"},
		"everything": {"enabled": false},
	} {
		t.Run(what, func(t *testing.T) {
			server := harness.StartConsul(t, harness.ConsulOptions{Config: map[string]any{"acl": acl}})
			cfg := configWith(t, server.ConsulAccess, "alice", server.ManagementToken)
			if err := refused(t, cfg, naming.ErrInsecureConfig); !strings.Contains(err.Error(), `acl.default_policy = "deny"`) {
				t.Errorf("the error does not say what to do: %v", err)
			}
			// U: where it is asked for, anybody takes any name.
			server.Node(t, node("mallory"))
			cfg.Principal, cfg.Token, cfg.InsecureDevelopmentOnly = "mallory", consul.Secret{}, true
			claim(t, lease(t, open(t, cfg)), "a.x", "evil")
			if pair := stored(t, server.Admin, "a.x"); pair == nil || string(pair.Value) != "evil" {
				t.Errorf("stored is %v", pair)
			}
		})
	}
	t.Run("beside good ones", func(t *testing.T) {
		server := start(t)
		allows := serve(t, server.CA, relay(t, server, func(r *http.Response) error {
			r.Header.Set("X-Consul-Default-ACL-Policy", "allow")
			return nil
		}), nil)
		cfg := config(t, server.ConsulAccess, "alice")
		cfg.Addresses = append(cfg.Addresses, allows)
		refuses(t, cfg, naming.ErrInsecureConfig)
	})
	// As after an edit of its configuration and a restart.
	t.Run("later", func(t *testing.T) {
		server := start(t)
		var policy atomic.Pointer[string]
		deny, allow := "deny", "allow"
		policy.Store(&deny)
		url := serve(t, server.CA, relay(t, server, func(r *http.Response) error {
			r.Header.Set("X-Consul-Default-ACL-Policy", *policy.Load())
			return nil
		}), nil)
		b := open(t, at(config(t, server.ConsulAccess, "alice"), url))
		watch := harness.Watch(t, b, scope(t, "a."))
		watch.Wait("synced", 1, 5*time.Second)
		l := lease(t, b)
		claim(t, l, "a.x", "1")
		policy.Store(&allow)
		_, err := b.Get(t.Context(), name(t, "a.x"))
		mustBe(t, err, naming.ErrInsecureConfig)
		_, err = l.Claim(t.Context(), name(t, "a.y"), nil, 0)
		mustBe(t, err, naming.ErrInsecureConfig)
		_, err = b.Lease(t.Context(), 0)
		mustBe(t, err, naming.ErrInsecureConfig)
		watch.Wait("down", 1, 5*time.Second)
		lostBy(t, l) // and so does its name: renewals are refused too
		policy.Store(&deny)
		watch.Wait("synced", 2, 10*time.Second)
		claim(t, lease(t, b), "a.z", "1")
	})
}

// That a server is not safe is seen in its answer: the write has taken effect.
func TestWriteAtAServerThatAllows(t *testing.T) {
	server := start(t)
	var allows atomic.Bool
	url := serve(t, server.CA, relay(t, server, func(r *http.Response) error {
		if allows.Load() && r.Request.Method == http.MethodPut && strings.HasPrefix(r.Request.URL.Path, "/v1/kv/") {
			r.Header.Set("X-Consul-Default-ACL-Policy", "allow")
		}
		return nil
	}), nil)
	b := open(t, at(config(t, server.ConsulAccess, "alice"), url))
	for what, do := range map[string]func(l naming.Lease, n string, rev naming.Revision) error{
		"claim": func(l naming.Lease, n string, _ naming.Revision) error {
			_, err := l.Claim(t.Context(), name(t, n+"-claimed"), []byte("2"), 0)
			return err
		},
		"update": func(l naming.Lease, n string, rev naming.Revision) error {
			_, err := l.Update(t.Context(), name(t, n), []byte("2"), rev)
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			l := lease(t, b)
			rev := claim(t, l, "a."+what, "1")
			allows.Store(true)
			err := do(l, "a."+what, rev)
			allows.Store(false)
			mustBe(t, err, naming.ErrInsecureConfig)
			eventually(t, ttl/5+slack, "undone, or gone with the lease", func() bool {
				a, b := stored(t, server.Admin, "a."+what), stored(t, server.Admin, "a."+what+"-claimed")
				return b == nil && (a == nil || string(a.Value) == "1")
			})
		})
	}
}

// Something that is not Consul, with a certificate of the right CA: never "not
// found", never a success.
func TestNotConsul(t *testing.T) {
	t.Parallel()
	ca := testca.New(t)
	cfg := consul.Config{
		TLS:       consul.TLS{CAFile: ca.WriteFile(t, t.TempDir(), "ca")},
		Principal: "alice", Token: consul.NewSecret(uuid.NewString()), MinTTL: ttl, DefaultTTL: ttl,
	}
	var trying sync.WaitGroup
	for what, answer := range map[string]struct {
		status int
		body   string
	}{
		"nothing there":  {404, "404 page not found"},
		"a page":         {200, "<html>It works: true</html>"},
		"an object":      {200, "{}"},
		"a list":         {200, "[]"},
		"null":           {200, "null"},
		"null in a list": {200, "[null]"},
		"yes":            {200, "true"},
		"no content":     {204, ""},
		"an ID":          {200, `{"ID": "93da1f5a-0e1b-4f5e-a5c0-6ef51a0b7f5f", "AccessorID": "x"}`},
	} {
		for _, policy := range []string{"", "deny"} {
			// One that gives IDs has leases too, which nobody renews.
			gives := what == "an ID" && policy == "deny"
			url := serve(t, ca, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body := answer.body
				if gives && strings.HasPrefix(r.URL.Path, "/v1/session/renew/") {
					body = "[]"
				}
				if policy != "" {
					w.Header().Set("X-Consul-Default-ACL-Policy", policy)
				}
				w.WriteHeader(answer.status)
				_, _ = w.Write([]byte(body))
			}), nil)
			trying.Go(func() { notConsul(t, what+", policy "+policy, at(cfg, url), gives) })
		}
	}
	trying.Wait()
}

func notConsul(t *testing.T, what string, cfg consul.Config, gives bool) {
	t.Helper()
	b, err := consul.Open(t.Context(), cfg)
	if err != nil {
		t.Errorf("%s: %v, want it to be as if it were away: it may be a balancer whose servers are", what, err)
		return
	}
	defer b.Close()
	if _, err = b.Get(t.Context(), name(t, "a.x")); naming.Code(err) != "unavailable" {
		t.Errorf("%s: get: %v", what, err)
	}
	if _, err = b.WhoAmI(t.Context()); (err == nil) != gives {
		t.Errorf("%s: whoami: %v", what, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	for event, err := range b.Watch(ctx, scope(t, "a.")) {
		if err == nil && event.Kind != naming.Down {
			t.Errorf("%s: the watch says %v", what, event.Kind)
		}
	}
	l, err := b.Lease(t.Context(), 0)
	if (err == nil) != gives {
		t.Errorf("%s: lease: %v", what, err)
	}
	if err != nil {
		return
	}
	before := l.Deadline()
	if rev, err := l.Claim(t.Context(), name(t, "a.x"), nil, 0); err == nil {
		t.Errorf("%s: claimed: revision %d", what, rev)
	}
	lostBy(t, l)
	if after := l.Deadline(); after.After(before) {
		t.Errorf("%s: it renews leases", what)
	}
}

// An answer that makes no sense is an outage, and no reason to fall over it.
func TestThreat14NullInAListing(t *testing.T) {
	t.Parallel()
	server := start(t)
	var broken atomic.Bool
	b := open(t, at(config(t, server.ConsulAccess, "alice"), serve(t, server.CA, relay(t, server, func(r *http.Response) error {
		if broken.Load() && r.Request.URL.Query().Has("recurse") && r.StatusCode == http.StatusOK {
			r.Body.Close()
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader("[null]")), -1
			r.Header.Del("Content-Length")
		}
		return nil
	}), nil)))
	l := lease(t, b)
	rev := claim(t, l, "a.x", "1")
	only, family := harness.Watch(t, b, scope(t, "a.x")), harness.Watch(t, b, scope(t, "a."))
	only.Wait("synced", 1, 5*time.Second)
	family.Wait("synced", 1, 5*time.Second)
	broken.Store(true)
	if _, err := l.Update(t.Context(), name(t, "a.x"), []byte("2"), rev); err != nil {
		t.Fatal(err)
	}
	only.Wait("put a.x=2 held=true", 1, 5*time.Second)
	family.Wait("down", 1, 5*time.Second)
	broken.Store(false)
	family.Wait("put a.x=2 held=true", 1, 5*time.Second)
	family.Wait("synced", 2, 5*time.Second)
}
