package tlsfile

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/seed-6593ebad/skywarden/internal/testca"
	"github.com/seed-6593ebad/skywarden/naming"
)

// files writes a good set and says where it is.
func files(t *testing.T, ca *testca.CA, name string) Config {
	t.Helper()
	dir := t.TempDir()
	cert, key := ca.Client(t, name).WriteFiles(t, dir, "client")
	return Config{CertFile: cert, KeyFile: key, CAFile: ca.WriteFile(t, dir, "ca")}
}

func TestOpenErrors(t *testing.T) {
	ca := testca.New(t)
	past := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	future := time.Date(2090, 1, 2, 3, 4, 5, 0, time.UTC)
	write := func(t *testing.T, path, content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name   string
		spoil  func(t *testing.T, c *Config)
		want   string // DIR stands for the directory of the files
		kind   error
		noUnix bool
	}{
		{
			"nothing given", func(_ *testing.T, c *Config) { *c = Config{} },
			"client certificate: no file is given\nprivate key: no file is given\nCA: no file is given", nil, false,
		},
		{"missing", func(t *testing.T, c *Config) {
			t.Helper()
			for _, path := range []string{c.CertFile, c.CAFile} {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			}
		}, `client certificate "DIR/client.pem" cannot be opened: no such file or directory` + "\n" +
			`CA "DIR/ca.pem" cannot be opened: no such file or directory`, fs.ErrNotExist, false},
		{"not PEM", func(t *testing.T, c *Config) {
			t.Helper()
			for _, path := range []string{c.CertFile, c.KeyFile, c.CAFile} {
				write(t, path, "hello")
			}
		}, `client certificate "DIR/client.pem" has no certificate in PEM (a line -----BEGIN CERTIFICATE-----)` + "\n" +
			`private key "DIR/client-key.pem" has no private key in PEM (a line -----BEGIN PRIVATE KEY-----)` + "\n" +
			`CA "DIR/ca.pem" has no certificate in PEM (a line -----BEGIN CERTIFICATE-----)`, nil, false},
		{
			"empty CA", func(t *testing.T, c *Config) { t.Helper(); write(t, c.CAFile, "\n") },
			`CA "DIR/ca.pem" is empty`, nil, false,
		},
		{
			"certificate and key swapped", func(_ *testing.T, c *Config) { c.CAFile, c.CertFile = c.CertFile, c.KeyFile },
			`client certificate "DIR/client-key.pem" has no certificate in PEM (a line -----BEGIN CERTIFICATE-----)`, nil, false,
		},
		{"another key", func(t *testing.T, c *Config) {
			t.Helper()
			_, c.KeyFile = ca.Client(t, "x").WriteFiles(t, filepath.Dir(c.KeyFile), "other")
		}, `private key "DIR/other-key.pem" is of no use for the certificate in "DIR/client.pem": private key does not match public key`, nil, false},
		{"encrypted key", func(t *testing.T, c *Config) {
			t.Helper()
			write(t, c.KeyFile, "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")
		}, `private key "DIR/client-key.pem" is encrypted: store it decrypted, readable by its owner alone`, nil, false},
		{"half a type", func(t *testing.T, c *Config) {
			t.Helper()
			write(t, c.KeyFile, "-----BEGIN hunterPRIVATE KEY-----\nAAAA\n-----END hunterPRIVATE KEY-----\n")
		}, `private key "DIR/client-key.pem" has no private key in PEM (a line -----BEGIN PRIVATE KEY-----)`, nil, false},
		{
			"content for a path", func(t *testing.T, c *Config) { t.Helper(); c.KeyFile = string(ca.Client(t, "x").KeyPEM(t)) },
			"private key: the name of the file has a line break: give the path of a file, not what is in it", nil, false,
		},
		{
			"file and key", func(t *testing.T, c *Config) { t.Helper(); c.Key = NewSecret(string(ca.Client(t, "x").KeyPEM(t))) },
			"private key: both KeyFile and Key are given: give one", nil, false,
		},
		{
			"an empty key", func(_ *testing.T, c *Config) { c.KeyFile, c.Key = "", NewSecret("") },
			"private key: no file is given", nil, false,
		},
		{"another given key", func(t *testing.T, c *Config) {
			t.Helper()
			c.KeyFile, c.Key = "", NewSecret(string(ca.Client(t, "x").KeyPEM(t)))
		}, `the given private key is of no use for the certificate in "DIR/client.pem": private key does not match public key`, nil, false},
		{
			"a given text that is no key", func(_ *testing.T, c *Config) { c.KeyFile, c.Key = "", NewSecret("hunter2") },
			"the given private key has no private key in PEM (a line -----BEGIN PRIVATE KEY-----)", nil, false,
		},
		{"expired", func(t *testing.T, c *Config) {
			t.Helper()
			ca.Issue(t, testca.Request{Client: true, NotBefore: past.AddDate(-1, 0, 0), NotAfter: past}).WriteFiles(t, filepath.Dir(c.KeyFile), "client")
		}, `client certificate "DIR/client.pem" expired on 2020-01-02T03:04:05Z: have a new one issued`, nil, false},
		{"early", func(t *testing.T, c *Config) {
			t.Helper()
			ca.Issue(t, testca.Request{Client: true, NotBefore: future, NotAfter: future.AddDate(1, 0, 0)}).WriteFiles(t, filepath.Dir(c.KeyFile), "client")
		}, `client certificate "DIR/client.pem" is not valid before 2090-01-02T03:04:05Z: check this machine's clock`, nil, false},
		{
			"directory", func(_ *testing.T, c *Config) { c.KeyFile = filepath.Dir(c.KeyFile) },
			`private key "DIR" is not a regular file: insecure configuration`, naming.ErrInsecureConfig, false,
		},
		{
			"key readable by others", func(t *testing.T, c *Config) { t.Helper(); chmod(t, c.KeyFile, 0o640) },
			`private key "DIR/client-key.pem" has mode 0640, nobody but its owner may have access to it: chmod go-rwx: insecure configuration`, naming.ErrInsecureConfig, true,
		},
		{"key behind a link readable by others", func(t *testing.T, c *Config) {
			t.Helper()
			chmod(t, c.KeyFile, 0o604)
			link := filepath.Join(filepath.Dir(c.KeyFile), "link")
			if err := os.Symlink(c.KeyFile, link); err != nil {
				t.Fatal(err)
			}
			c.KeyFile = link
		}, `private key "DIR/link" has mode 0604, nobody but its owner may have access to it: chmod go-rwx: insecure configuration`, naming.ErrInsecureConfig, true},
		{
			"CA writable by others", func(t *testing.T, c *Config) { t.Helper(); chmod(t, c.CAFile, 0o664) },
			`CA "DIR/ca.pem" has mode 0664, nobody but its owner may write it: chmod go-w: insecure configuration`, naming.ErrInsecureConfig, true,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.noUnix && runtime.GOOS == "windows" {
				return // Windows has no modes: Config.KeyFile says so
			}
			cfg := files(t, ca, "alice")
			dir := filepath.Dir(cfg.CertFile)
			test.spoil(t, &cfg)
			_, err := Open(cfg, nil)
			if err == nil {
				t.Fatal("no error")
			}
			got := strings.ReplaceAll(err.Error(), dir, "DIR")
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if test.kind != nil && !errors.Is(err, test.kind) {
				t.Errorf("the error %v is not %v", err, test.kind)
			}
		})
	}
}

func chmod(t *testing.T, path string, mode fs.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// server answers each connection with the common name that the client proved,
// or ends it. show is its certificate.
func server(t *testing.T, clients *testca.CA, show func() testca.Cert, maxVersion uint16) string {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		MinVersion: tls.VersionTLS12, MaxVersion: maxVersion,
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients.Pool(),
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			cert := show().TLS()
			return &cert, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			tlsConn := conn.(*tls.Conn)
			if tlsConn.Handshake() == nil {
				_, _ = io.WriteString(conn, tlsConn.ConnectionState().PeerCertificates[0].Subject.CommonName)
			}
			conn.Close()
		}
	}()
	t.Cleanup(func() { listener.Close(); <-done })
	return listener.Addr().String()
}

func ask(addr string, cfg *tls.Config) (string, error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", addr, cfg)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	who, err := io.ReadAll(conn)
	return string(who), err
}

func TestReload(t *testing.T) {
	first, second := testca.New(t), testca.New(t)
	cfg := files(t, first, "alice")
	dir := filepath.Dir(cfg.CertFile)
	var reports []string
	source, err := Open(cfg, func(err error) {
		if err == nil {
			reports = append(reports, "good")
			return
		}
		reports = append(reports, strings.ReplaceAll(err.Error(), dir, "DIR"))
	})
	if err != nil {
		t.Fatal(err)
	}
	serverCA := first
	addr := server(t, first, func() testca.Cert { return serverCA.Server(t, "127.0.0.1") }, tls.VersionTLS13)
	mustBe := func(want string) {
		t.Helper()
		got, err := ask(addr, source.Client())
		if err != nil || got != want || source.CommonName() != want {
			t.Fatalf("the server saw %q (%v), the source says %q, want %q", got, err, source.CommonName(), want)
		}
	}
	mustBe("alice")

	// A new certificate is used from the next handshake on, also with a
	// configuration that was made before.
	old := source.Client()
	first.Client(t, "alice-2").WriteFiles(t, dir, "client")
	if got, err := ask(addr, old); err != nil || got != "alice-2" {
		t.Errorf("an older configuration shows %q (%v), want alice-2", got, err)
	}
	mustBe("alice-2")

	// A broken file changes nothing and is reported once.
	if err := os.WriteFile(cfg.CertFile, []byte("half a certif"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustBe("alice-2")
	mustBe("alice-2")
	first.Client(t, "alice-3").WriteFiles(t, dir, "client")
	mustBe("alice-3")
	want := []string{`client certificate "DIR/client.pem" has no certificate in PEM (a line -----BEGIN CERTIFICATE-----)`, "good"}
	if diff := cmp.Diff(want, reports); diff != "" {
		t.Errorf("reports (-want +got):\n%s", diff)
	}

	// The server's CA changes: refused until the file does too.
	serverCA = second
	if _, err := ask(addr, source.Client()); !errors.As(err, &x509.UnknownAuthorityError{}) {
		t.Errorf("a server of another CA: %v, want an unknown authority", err)
	}
	second.WriteFile(t, dir, "ca")
	mustBe("alice-3")
}

// A key that was given itself stays, and the certificate is followed.
func TestReloadWithGivenKey(t *testing.T) {
	ca := testca.New(t)
	dir := t.TempDir()
	alice := ca.Client(t, "alice")
	certFile, keyFile := alice.WriteFiles(t, dir, "client")
	if err := os.Remove(keyFile); err != nil {
		t.Fatal(err)
	}
	key := string(alice.KeyPEM(t))
	var reports []string
	source, err := Open(Config{CertFile: certFile, CAFile: ca.WriteFile(t, dir, "ca"), Key: NewSecret(key)}, func(err error) {
		reports = append(reports, strings.ReplaceAll(fmt.Sprint(err), dir, "DIR"))
	})
	if err != nil {
		t.Fatal(err)
	}
	addr := server(t, ca, func() testca.Cert { return ca.Server(t, "127.0.0.1") }, tls.VersionTLS13)
	mustBe := func(want string) {
		t.Helper()
		if got, err := ask(addr, source.Client()); err != nil || got != want {
			t.Fatalf("the server saw %q, %v, want %q", got, err, want)
		}
	}
	mustBe("alice")

	// A certificate for another key cannot be used; the one before stays.
	ca.Client(t, "bob").WriteFiles(t, dir, "client")
	mustBe("alice")
	if err := os.WriteFile(certFile, alice.CertPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	mustBe("alice")
	want := []string{`the given private key is of no use for the certificate in "DIR/client.pem": private key does not match public key`, "<nil>"}
	if diff := cmp.Diff(want, reports); diff != "" {
		t.Errorf("reports (-want +got):\n%s", diff)
	}
}

// Nothing that prints a Secret prints what it hides, wherever it is.
func TestSecretIsNotPrinted(t *testing.T) {
	const canary = "hunter2"
	secret := NewSecret(canary)
	type hidden struct{ secret Secret }
	cfg := Config{Key: secret}
	for _, v := range []any{secret, &secret, cfg, &cfg, hidden{secret}, &hidden{secret}, []Secret{secret}, map[Secret]Secret{secret: secret}, &Source{cfg: cfg}} {
		for _, verb := range "vsqxXdtbcoOUeEfFgGpTw" {
			for _, flag := range []string{"", "+", "#"} {
				format := "%" + flag + string(verb)
				got := fmt.Sprintf(format, v)
				if strings.Contains(got, canary) || strings.Contains(strings.ToLower(got), hex.EncodeToString([]byte(canary))) {
					t.Errorf("%T printed with %s: %s", v, format, got)
				}
			}
		}
		text, err := json.Marshal(v)
		if err != nil || strings.Contains(string(text), canary) {
			t.Errorf("JSON of %T: %s, %v", v, text, err)
		}
		var log bytes.Buffer
		logger := zerolog.New(&log)
		logger.Info().Interface("v", v).Any("w", v).Msg("")
		if strings.Contains(log.String(), canary) {
			t.Errorf("%T logged: %s", v, log.String())
		}
	}
	text, err := secret.MarshalText()
	for _, got := range []string{fmt.Sprintf("%v", secret), fmt.Sprintf("%+v", secret), fmt.Sprintf("%#v", secret), secret.String(), string(text)} {
		if got != "[redacted]" || err != nil {
			t.Errorf("printed as %q, %v", got, err)
		}
	}
	if got := fmt.Sprintf("%+v", cfg); !strings.Contains(got, "Key:[redacted]") {
		t.Errorf("the Config is printed as %s", got)
	}
	if got, err := json.Marshal(cfg); err != nil || !strings.Contains(string(got), `"Key":"[redacted]"`) {
		t.Errorf("the Config in JSON: %s, %v", got, err)
	}
}

func TestServerIsVerified(t *testing.T) {
	ca := testca.New(t)
	cfg := files(t, ca, "alice")
	open := func(cfg Config) *tls.Config {
		source, err := Open(cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		return source.Client()
	}
	elsewhere := server(t, ca, func() testca.Cert { return ca.Server(t, "etcd.internal") }, tls.VersionTLS13)
	if _, err := ask(elsewhere, open(cfg)); !errors.As(err, &x509.HostnameError{}) {
		t.Errorf("a certificate for another host: %v, want a host name error", err)
	}
	named := cfg
	named.ServerName = "etcd.internal"
	if got, err := ask(elsewhere, open(named)); err != nil || got != "alice" {
		t.Errorf("with ServerName: %q, %v", got, err)
	}
	expired := server(t, ca, func() testca.Cert {
		return ca.Issue(t, testca.Request{Server: true, Hosts: []string{"127.0.0.1"}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)})
	}, tls.VersionTLS13)
	var invalid x509.CertificateInvalidError
	if _, err := ask(expired, open(cfg)); !errors.As(err, &invalid) || invalid.Reason != x509.Expired {
		t.Errorf("an expired certificate: %v, want expired", err)
	}
}

// A client without a certificate verifies the server all the same, and follows
// the CA.
func TestOpenCA(t *testing.T) {
	first, second := testca.New(t), testca.New(t)
	cfg := files(t, first, "alice")
	dir := filepath.Dir(cfg.CertFile)
	_, err := OpenCA(Config{CertFile: cfg.CertFile}, nil)
	if want := "a client certificate or key is given where none is used\nCA: no file is given"; err == nil || err.Error() != want {
		t.Errorf("with a certificate and no CA: %v, want %s", err, want)
	}
	source, err := OpenCA(Config{CAFile: cfg.CAFile, ServerName: "x"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := source.Client()
	if client.GetClientCertificate != nil || client.ServerName != "x" || client.MinVersion != tls.VersionTLS13 || !client.RootCAs.Equal(first.Pool()) {
		t.Errorf("got %+v", client)
	}
	second.WriteFile(t, dir, "ca")
	if !source.Client().RootCAs.Equal(second.Pool()) {
		t.Error("the CA's file is not followed")
	}
}

func TestOldTLSOnlyWhereAllowed(t *testing.T) {
	ca := testca.New(t)
	cfg := files(t, ca, "alice")
	old := server(t, ca, func() testca.Cert { return ca.Server(t, "127.0.0.1") }, tls.VersionTLS12)
	for _, allow := range []bool{false, true} {
		cfg.AllowTLS12 = allow
		source, err := Open(cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ask(old, source.Client()); (err == nil) != allow {
			t.Errorf("AllowTLS12 %v: %v", allow, err)
		}
	}
}
