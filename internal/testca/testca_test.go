package testca_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/seed-6593ebad/skywarden/internal/testca"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMutualTLS(t *testing.T) {
	ca, stranger := testca.New(t), testca.New(t)
	now := time.Now()
	good := ca.Server(t, "127.0.0.1", "names.example")

	tests := []struct {
		name       string
		server     testca.Cert
		client     testca.Cert
		serverName string
		roots      *x509.CertPool
		fails      func(error) bool // nil: the handshake succeeds; told the client's or else the server's error
	}{
		{name: "ip", server: good, client: ca.Client(t, "alice"), serverName: "127.0.0.1"},
		{name: "dns", server: good, client: ca.Client(t, "alice"), serverName: "names.example"},
		{
			name: "wrong host", server: good, client: ca.Client(t, "alice"), serverName: "other.example",
			fails: isA[x509.HostnameError],
		},
		{
			name: "wrong CA at the client", server: good, client: ca.Client(t, "alice"), serverName: "127.0.0.1", roots: stranger.Pool(),
			fails: isA[x509.UnknownAuthorityError],
		},
		{
			name: "wrong CA at the server", server: good, client: stranger.Client(t, "alice"), serverName: "127.0.0.1",
			fails: isA[x509.UnknownAuthorityError],
		},
		{
			name:   "expired server",
			server: ca.Issue(t, testca.Request{Hosts: []string{"127.0.0.1"}, Server: true, NotBefore: now.Add(-2 * time.Hour), NotAfter: now.Add(-time.Minute)}),
			client: ca.Client(t, "alice"), serverName: "127.0.0.1", fails: isExpired,
		},
		{
			name:   "server not yet valid",
			server: ca.Issue(t, testca.Request{Hosts: []string{"127.0.0.1"}, Server: true, NotBefore: now.Add(time.Hour), NotAfter: now.Add(2 * time.Hour)}),
			client: ca.Client(t, "alice"), serverName: "127.0.0.1", fails: isExpired,
		},
		{
			name: "expired client", server: good, serverName: "127.0.0.1", fails: isExpired,
			client: ca.Issue(t, testca.Request{CommonName: "alice", Client: true, NotAfter: now.Add(-time.Minute)}),
		},
		{
			name: "server certificate that may not serve", server: ca.Issue(t, testca.Request{Hosts: []string{"127.0.0.1"}, Client: true}),
			client: ca.Client(t, "alice"), serverName: "127.0.0.1", fails: isA[x509.CertificateInvalidError],
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			roots := test.roots
			if roots == nil {
				roots = ca.Pool()
			}
			peer, err := handshake(t,
				&tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{test.server.TLS()}, ClientCAs: ca.Pool(), ClientAuth: tls.RequireAndVerifyClientCert},
				&tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{test.client.TLS()}, RootCAs: roots, ServerName: test.serverName})
			switch {
			case test.fails == nil && err != nil:
				t.Fatalf("handshake: %v, want success", err)
			case test.fails == nil && peer != "alice":
				t.Errorf("the server saw the common name %q, want alice", peer)
			case test.fails != nil && !test.fails(err):
				t.Errorf("handshake: %v (%T), want another error", err, err)
			}
		})
	}
}

func TestFiles(t *testing.T) {
	ca := testca.New(t)
	dir := t.TempDir()
	cert := ca.Client(t, "alice")
	certFile, keyFile := cert.WriteFiles(t, dir, "alice")
	caFile := ca.WriteFile(t, dir, "ca")

	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(pair.Certificate[0], cert.Leaf.Raw) {
		t.Error("the written certificate is another one")
	}
	raw, err := os.ReadFile(caFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(raw) || !pool.Equal(ca.Pool()) {
		t.Error("the written CA is not this CA")
	}
	if info, err := os.Stat(keyFile); err != nil {
		t.Fatal(err)
	} else if mode := info.Mode().Perm(); runtime.GOOS != "windows" && mode != 0o600 {
		t.Errorf("key file has mode %o, want 600", mode)
	}

	// A renewed certificate takes the place of the old one.
	renewed := ca.Client(t, "alice")
	renewed.WriteFiles(t, dir, "alice")
	pair, err = tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(pair.Certificate[0], renewed.Leaf.Raw) {
		t.Error("the renewed certificate did not replace the old one")
	}
	entries, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(entries) != 3 {
		t.Errorf("directory holds %v (%v), want three files", entries, err)
	}
}

// handshake lets a client meet a server on loopback; it returns the common
// name that the server saw, or the error of the side that refused.
func handshake(t *testing.T, server, client *tls.Config) (peer string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	here, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	there, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()

	type answer struct {
		peer string
		err  error
	}
	served := make(chan answer, 1)
	go func() {
		conn := tls.Server(there, server)
		err := conn.HandshakeContext(ctx)
		if err != nil {
			there.Close()
			served <- answer{err: err}
			return
		}
		_, err = conn.Write([]byte("ok"))
		served <- answer{conn.ConnectionState().PeerCertificates[0].Subject.CommonName, err}
	}()

	conn := tls.Client(here, client)
	clientErr := conn.HandshakeContext(ctx)
	if clientErr == nil {
		// TLS 1.3: the client learns of the server's refusal at its first read.
		_, clientErr = io.ReadFull(conn, make([]byte, 2))
	} else {
		here.Close()
	}
	got := <-served
	if _, ok := errors.AsType[*tls.CertificateVerificationError](clientErr); ok {
		return "", clientErr
	}
	if got.err != nil {
		return "", got.err
	}
	return got.peer, clientErr
}

func isA[E error](err error) bool {
	var target E
	return errors.As(err, &target)
}

func isExpired(err error) bool {
	var invalid x509.CertificateInvalidError
	return errors.As(err, &invalid) && invalid.Reason == x509.Expired
}
