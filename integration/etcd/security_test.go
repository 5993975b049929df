package etcd_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/seed-6593ebad/skywarden/backends/etcd"
	"github.com/seed-6593ebad/skywarden/integration/harness"
	"github.com/seed-6593ebad/skywarden/internal/testca"
	"github.com/seed-6593ebad/skywarden/naming"
)

// refuses opens and wants an error of that kind, soon.
func refuses(t *testing.T, cfg etcd.Config, kind error) {
	t.Helper()
	_ = refused(t, cfg, kind)
}

// refused is refuses that gives the error.
func refused(t *testing.T, cfg etcd.Config, kind error) error {
	t.Helper()
	begin := time.Now()
	b, err := etcd.Open(t.Context(), cfg)
	if err == nil {
		b.Close()
		t.Fatalf("Open succeeds, want %v", kind)
	}
	if !errors.Is(err, kind) {
		t.Errorf("Open: %v, want %v", err, kind)
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("Open took %v to fail", took)
	}
	t.Log(err)
	return err
}

func TestThreat13VulnerableServer(t *testing.T) {
	server := harness.StartEtcd(t, harness.EtcdOptions{Version: "3.6.5"})
	users(t, server)
	// A server that old tells its version to root alone.
	for user, wants := range map[string][]string{"alice": {"CVE-2026-33343", "3.7.1"}, "root": {"3.6.5", "CVE-2026-33343", "3.7.1"}} {
		err := refused(t, config(t, server, user), naming.ErrInsecureBackendVersion)
		for _, want := range wants {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("the error for %s does not say %q: %v", user, want, err)
			}
		}
	}
	cfg := config(t, server, "alice")

	t.Run("accepted where that is asked for, with an alarm", func(t *testing.T) {
		var log bytes.Buffer
		cfg := cfg
		cfg.InsecureAcceptVulnerableServer = true
		cfg.Logger = zerolog.New(&log)
		b := open(t, cfg)
		if !strings.Contains(log.String(), `"alarm":true`) {
			t.Errorf("no alarm in the log: %s", log.String())
		}
		claim(t, lease(t, b), "a.x", "1")
	})

	// Open cannot refuse a server that is not there. Nothing is sent to it when it
	// comes.
	t.Run("that appears later", func(t *testing.T) {
		proxy := harness.NewProxy(t, server.Address)
		proxy.Cut()
		b := open(t, through(cfg, proxy))
		_, err := b.Get(t.Context(), name(t, "a.x"))
		mustBe(t, err, naming.ErrUnavailable)
		proxy.Heal()
		eventually(t, 5*time.Second, func() bool {
			_, err = b.Get(t.Context(), name(t, "a.x"))
			return !errors.Is(err, naming.ErrUnavailable)
		})
		mustBe(t, err, naming.ErrInsecureBackendVersion)
		_, err = b.Lease(t.Context(), 0)
		mustBe(t, err, naming.ErrInsecureBackendVersion)
	})
}

// eventually repeats check until it is true.
func eventually(t *testing.T, within time.Duration, check func() bool) {
	t.Helper()
	late := time.NewTimer(within)
	defer late.Stop()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for !check() {
		select {
		case <-again.C:
		case <-late.C:
			t.Errorf("not within %v", within)
			return
		}
	}
}

func TestThreat8And32Certificates(t *testing.T) {
	server := start(t)
	good := config(t, server, "alice")
	foreign := testca.New(t)

	t.Run("another CA than the server's", func(t *testing.T) {
		cfg := good
		cfg.TLS.CAFile = foreign.WriteFile(t, t.TempDir(), "ca")
		err := refused(t, cfg, naming.ErrUnavailable)
		if !errors.As(err, &x509.UnknownAuthorityError{}) {
			t.Errorf("the reason is not an unknown authority: %v", err)
		}
	})
	t.Run("another host name", func(t *testing.T) {
		cfg := good
		cfg.TLS.ServerName = "etcd.internal"
		err := refused(t, cfg, naming.ErrUnavailable)
		if !errors.As(err, &x509.HostnameError{}) {
			t.Errorf("the reason is not the host name: %v", err)
		}
	})
	t.Run("client certificate of another CA", func(t *testing.T) {
		cfg := good
		cfg.TLS.CertFile, cfg.TLS.KeyFile = foreign.Client(t, "alice").WriteFiles(t, t.TempDir(), "foreign")
		refuses(t, cfg, naming.ErrUnauthenticated)
	})
	t.Run("expired client certificate", func(t *testing.T) {
		expired := server.CA.Issue(t, testca.Request{CommonName: "alice", Client: true, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)})
		// tlsfile refuses the file; what a user's own tls.Config holds, the server does.
		cfg := good
		cfg.TLS = etcd.TLS{}
		cfg.TLSConfig = &tls.Config{RootCAs: server.CA.Pool(), Certificates: []tls.Certificate{expired.TLS()}}
		refuses(t, cfg, naming.ErrUnauthenticated)
	})
	t.Run("user that the server does not know", func(t *testing.T) {
		err := refused(t, config(t, server, "mallory"), naming.ErrUnauthenticated)
		if !strings.Contains(err.Error(), "etcdctl user add mallory") {
			t.Errorf("the error does not say what to do: %v", err)
		}
	})
	t.Run("a server without TLS", func(t *testing.T) {
		plain, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				conn, err := plain.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n")
				conn.Close()
			}
		}()
		defer func() { plain.Close(); <-done }()
		cfg := good
		cfg.Endpoints = []string{"https://" + plain.Addr().String()}
		refuses(t, cfg, naming.ErrUnavailable)
	})
	t.Run("expired server certificate, later a good one", func(t *testing.T) {
		bad := harness.StartEtcd(t, harness.EtcdOptions{ServerCert: func(tb testing.TB, ca *testca.CA) testca.Cert {
			tb.Helper()
			return ca.Issue(tb, testca.Request{Server: true, Client: true, Hosts: []string{"127.0.0.1"}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)})
		}})
		users(t, bad)
		err := refused(t, config(t, bad, "alice"), naming.ErrUnavailable)
		var invalid x509.CertificateInvalidError
		if !errors.As(err, &invalid) || invalid.Reason != x509.Expired {
			t.Errorf("the reason is not expiry: %v", err)
		}
	})
	t.Run("one good endpoint is enough", func(t *testing.T) {
		other := harness.StartEtcd(t, harness.EtcdOptions{}) // of another CA
		cfg := good
		cfg.Endpoints = append(other.Endpoints(), good.Endpoints...)
		b := open(t, cfg)
		claim(t, lease(t, b), "a.y", "1")
	})
}

// A certificate that is replaced is shown from the next connection on, and so is
// a new CA.
func TestThreat32CertificatesAreFollowed(t *testing.T) {
	server := start(t)
	proxy := harness.NewProxy(t, server.Address)
	cfg := through(config(t, server, "alice"), proxy)
	b := open(t, cfg)
	l := lease(t, b)
	claim(t, l, "a.z", "1")
	dir := cfg.TLS.CertFile[:strings.LastIndex(cfg.TLS.CertFile, "/")]
	server.CA.Client(t, "bob").WriteFiles(t, dir, "client")
	proxy.Cut()
	proxy.Heal()
	eventually(t, 5*time.Second, func() bool {
		who, err := b.WhoAmI(t.Context())
		return err == nil && who == "bob"
	})
	// The lease holds a key that bob may not write: he may not renew it either.
	select {
	case <-l.Done():
	case <-time.After(5*time.Second + slack):
		t.Error("the lease lives on")
	}
	_, err := lease(t, b).Claim(t.Context(), name(t, "a.z2"), nil, 0)
	mustBe(t, err, naming.ErrDenied)
	claim(t, lease(t, b), "b.z", "1")
}

// plaintext takes TLS off, as a sidecar does, and shows alice's certificate to
// the server.
func plaintext(t *testing.T, server *harness.Etcd) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := server.ClientTLS(t, "alice")
	cfg.NextProtos = []string{"h2"}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	wg.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			behind, err := tls.Dial("tcp", server.Address, cfg)
			if err != nil {
				client.Close()
				continue
			}
			stop := context.AfterFunc(ctx, func() { client.Close(); behind.Close() })
			wg.Go(func() { defer client.Close(); _, _ = io.Copy(client, behind) })
			wg.Go(func() { defer stop(); defer behind.Close(); _, _ = io.Copy(behind, client) })
		}
	})
	t.Cleanup(func() { cancel(); listener.Close(); wg.Wait() })
	return listener.Addr().String()
}

func TestThreat30Plaintext(t *testing.T) {
	server := start(t)
	addr := plaintext(t, server)
	cfg := etcd.Config{Endpoints: []string{"http://" + addr}, Logger: zerolog.New(zerolog.NewTestWriter(t))}
	refuses(t, cfg, naming.ErrInsecureConfig)
	client, err := clientv3.New(clientv3.Config{
		Endpoints: cfg.Endpoints, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	refuses(t, etcd.Config{Client: client, Principal: "alice"}, naming.ErrInsecureConfig)

	// U: where it is asked for, it works.
	var log bytes.Buffer
	cfg.InsecureDevelopmentOnly = true
	cfg.Logger = zerolog.New(&log)
	b := open(t, cfg)
	claim(t, lease(t, b), "a.x", "1")
	if !strings.Contains(log.String(), `"alarm":true`) {
		t.Errorf("no alarm in the log: %s", log.String())
	}
}

func TestServerWithoutAccessControl(t *testing.T) {
	server := harness.StartEtcd(t, harness.EtcdOptions{NoAuth: true})
	cfg := config(t, server, "alice")
	err := refused(t, cfg, naming.ErrInsecureConfig)
	if !strings.Contains(err.Error(), "etcdctl auth enable") {
		t.Errorf("the error does not say what to do: %v", err)
	}
	cfg.InsecureDevelopmentOnly = true
	b := open(t, cfg)
	claim(t, lease(t, b), "anything.goes", "1")
}

func TestClientOfTheUsersOwn(t *testing.T) {
	server := start(t)
	client, err := clientv3.New(clientv3.Config{Endpoints: server.Endpoints(), TLS: server.ClientTLS(t, "alice"), Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	b := open(t, etcd.Config{Client: client, Principal: "alice"})
	if who, err := b.WhoAmI(t.Context()); err != nil || who != "alice" {
		t.Errorf("WhoAmI: %q, %v", who, err)
	}
	seen := record(t, b, "")
	seen.Wait("synced", 1, 5*time.Second)
	claim(t, lease(t, b), "a.x", "1")
	seen.Wait("put a.x=1 held=true", 1, time.Second)
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if _, err := client.Get(t.Context(), key("a.x")); err != nil {
		t.Errorf("the client is of no use after Close: %v", err)
	}
	refuses(t, etcd.Config{Client: client, Principal: "bob"}, naming.ErrUnauthenticated)
}

// A role that is taken away: writes are refused at once, leases end within their
// TTL, watches when they are authorised again, and none of them says "outage".
func TestThreat33RoleRevoked(t *testing.T) {
	server := start(t)
	cfg := config(t, server, "alice")
	cfg.ReauthorizeEvery = 2 * time.Second
	b := open(t, cfg)
	only, family, all := record(t, b, "a.x"), record(t, b, "a."), record(t, b, "")
	for _, r := range []*harness.WatchLog{only, family, all} {
		r.Wait("synced", 1, 5*time.Second)
	}
	l, empty := lease(t, b), lease(t, b)
	claim(t, l, "a.x", "1")
	server.RevokeRole(t, "alice", "own-a")
	server.RevokeRole(t, "alice", "names-read")
	_, err := l.Claim(t.Context(), name(t, "a.y"), nil, 0)
	mustBe(t, err, naming.ErrDenied)
	_, err = b.Get(t.Context(), name(t, "a.x"))
	mustBe(t, err, naming.ErrDenied)
	for _, r := range []*harness.WatchLog{only, family, all} {
		select {
		case <-r.Ended():
		case <-time.After(4 * time.Second):
			t.Errorf("the watch goes on: %q", r.All())
			continue
		}
		mustBe(t, r.End(), naming.ErrDenied)
		for _, line := range r.All() {
			if line == "down" {
				t.Errorf("the watch spoke of an outage: %q", r.All())
			}
		}
	}
	select {
	case <-l.Done():
	case <-time.After(5*time.Second + slack):
		t.Error("the lease lives on")
	}
	// It still has the right to names of another family.
	claim(t, empty, "shared.x", "1")
	eventually(t, 6*time.Second, func() bool { return len(get(t, server.Admin, "a.x").Kvs) == 0 })
}

// leaseOf is the id of the lease on a key, which whoever may read the key knows.
func leaseOf(t *testing.T, server *harness.Etcd, n string) clientv3.LeaseID {
	t.Helper()
	resp := get(t, server.Admin, n)
	if len(resp.Kvs) != 1 || resp.Kvs[0].Lease == 0 {
		t.Fatalf("%s is not held: %v", n, resp.Kvs)
	}
	return clientv3.LeaseID(resp.Kvs[0].Lease)
}

func clientOf(t *testing.T, server *harness.Etcd, user string) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: server.Endpoints(), TLS: server.ClientTLS(t, user), Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func TestThreat16LeaseOfSomebodyElse(t *testing.T) {
	server := start(t)
	b := openAs(t, server, "alice")
	mallory := clientOf(t, server, "bob")
	leases := func() (ids []clientv3.LeaseID) {
		resp, err := server.Admin.Leases(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range resp.Leases {
			ids = append(ids, l.ID)
		}
		return ids
	}

	t.Run("ids cannot be guessed", func(t *testing.T) {
		for range 8 {
			defer lease(t, b).Close(t.Context())
		}
		ids := leases()
		if len(ids) != 8 {
			t.Fatalf("%d leases, want 8", len(ids))
		}
		for i, id := range ids {
			for _, other := range ids[:i] {
				if d := id - other; -1<<32 < d && d < 1<<32 {
					t.Errorf("leases %x and %x are near each other", id, other)
				}
			}
		}
	})

	t.Run("with a key on it", func(t *testing.T) {
		l := lease(t, b)
		defer l.Close(t.Context())
		claim(t, l, "a.x", "1")
		id := leaseOf(t, server, "a.x")
		for what, err := range map[string]error{
			"revoke":     second(mallory.Revoke(t.Context(), id)),
			"keep alive": second(mallory.KeepAliveOnce(t.Context(), id)),
			"attach":     second(mallory.Put(t.Context(), key("b.evil"), "", clientv3.WithLease(id))),
		} {
			if err == nil || !strings.Contains(err.Error(), "permission denied") {
				t.Errorf("%s: %v, want permission denied", what, err)
			}
		}
		claim(t, l, "a.y", "1")
	})

	// Who does learn the id of an empty lease takes it hostage: then the owner may
	// do nothing with it any more. The driver replaces it; the claim succeeds.
	t.Run("hostage while it is empty", func(t *testing.T) {
		for _, wait := range []time.Duration{0, 2 * time.Second} { // found by the claim; by the renewal
			l := lease(t, b)
			ids := leases()
			if len(ids) != 1 {
				t.Fatalf("%d leases, want 1", len(ids))
			}
			if _, err := mallory.Put(t.Context(), key("b.evil"), "", clientv3.WithLease(ids[0])); err != nil {
				t.Fatal(err)
			}
			<-time.After(wait)
			begin := time.Now()
			rev := claim(t, l, "a.victim", "1")
			if took := time.Since(begin); took > 2*time.Second {
				t.Errorf("the victim was registered after %v, want 2s", took)
			}
			if got := leaseOf(t, server, "a.victim"); got == ids[0] {
				t.Error("it is on the lease that was taken hostage")
			}
			if _, err := l.Update(t.Context(), name(t, "a.victim"), []byte("2"), rev); err != nil {
				t.Error(err)
			}
			select {
			case <-l.Done():
				t.Error("the lease is gone")
			case <-time.After(6 * time.Second): // longer than the TTL
			}
			if err := l.Close(t.Context()); err != nil {
				t.Error(err)
			}
			eventually(t, 10*time.Second, func() bool { return len(leases()) == 0 })
		}
	})

	t.Run("a denied name is no hostage", func(t *testing.T) {
		l := lease(t, b)
		defer l.Close(t.Context())
		before := leases()
		_, err := l.Claim(t.Context(), name(t, "b.x"), nil, 0)
		mustBe(t, err, naming.ErrDenied)
		if after := leases(); len(after) != 1 || after[0] != before[0] {
			t.Errorf("the lease was replaced: %x before, %x after", before, after)
		}
	})
}

func second[T any](_ T, err error) error { return err }

// Seen elsewhere: a client takes over the lease that it finds on its key. If an
// attacker put it there, the name is his to end.
func TestThreat45PeersMistakeAdoption(t *testing.T) {
	server := start(t)
	mallory := clientOf(t, server, "bob")
	granted, err := mallory.Grant(t.Context(), 600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := mallory.Put(t.Context(), key("shared.bank"), "evil", clientv3.WithLease(granted.ID)); err != nil {
		t.Fatal(err)
	}
	l := lease(t, openAs(t, server, "alice"))
	_, err = l.Claim(t.Context(), name(t, "shared.bank"), []byte("good"), 0)
	mustBe(t, err, naming.ErrTaken)
	var taken *naming.TakenError
	if !errors.As(err, &taken) || string(taken.Entry.Value) != "evil" || !taken.Entry.Held {
		t.Fatalf("taken by %+v", taken)
	}
	// Whoever may decide that the entry is not valid takes exactly it over, onto
	// our own lease.
	if _, err := l.Claim(t.Context(), name(t, "shared.bank"), []byte("good"), taken.Entry.Revision); err != nil {
		t.Fatal(err)
	}
	if got := leaseOf(t, server, "shared.bank"); got == granted.ID {
		t.Error("the name is on the attacker's lease")
	}
	if _, err := mallory.Revoke(t.Context(), granted.ID); err != nil {
		t.Fatal(err)
	}
	if resp := get(t, server.Admin, "shared.bank"); len(resp.Kvs) != 1 {
		t.Error("the attacker's lease took the name with it")
	}
}

// Seen elsewhere: one malformed entry makes a whole listing fail.
func TestThreat24PeersMistakePoison(t *testing.T) {
	server := start(t)
	for _, k := range []string{root + "/names/UPPER", root + "/names/a//b", root + "/names/a.b", root + "/names/\xff\x00", root + "/namesake", root + "/names/", root + "/other/x"} {
		if _, err := server.Admin.Put(t.Context(), k, "poison"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := server.Admin.Put(t.Context(), key("a.big"), strings.Repeat("x", 1<<20)); err != nil {
		t.Fatal(err)
	}
	b := openAs(t, server, "alice")
	claim(t, lease(t, b), "a.good", "1")
	seen := record(t, b, "")
	seen.Wait("synced", 1, 5*time.Second)
	seen.Wait("put a.good=1 held=true", 1, time.Second)
	if _, err := server.Admin.Put(t.Context(), root+"/names/WORSE", "poison"); err != nil {
		t.Fatal(err)
	}
	claim(t, lease(t, b), "a.later", "2")
	seen.Wait("put a.later=2 held=true", 1, time.Second)
	for _, line := range seen.All() {
		if strings.Contains(line, "poison") {
			t.Errorf("told: %q", line)
		}
	}
}
