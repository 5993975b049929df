package etcd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/seed-6593ebad/skywarden/internal/testca"
	"github.com/seed-6593ebad/skywarden/naming"
)

func TestConfig(t *testing.T) {
	ca := testca.New(t)
	dir := t.TempDir()
	cert, key := ca.Client(t, "alice").WriteFiles(t, dir, "alice")
	files := TLS{CertFile: cert, KeyFile: key, CAFile: ca.WriteFile(t, dir, "ca")}
	nobodyCert, nobodyKey := ca.Client(t, "").WriteFiles(t, dir, "nobody")
	own := &tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{ca.Client(t, "bob").TLS()}}
	one := []string{"https://10.0.0.1:2379"}
	caOnly := TLS{CAFile: files.CAFile}
	passwordFile := filepath.Join(dir, "password")
	if err := os.WriteFile(passwordFile, []byte("hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	tests := []struct {
		name string
		cfg  Config
		who  string // where it is good
		want string // DIR stands for the directory of the files
		kind error
	}{
		{"files", Config{Endpoints: one, TLS: files}, "alice", "", nil},
		{"own tls.Config", Config{Endpoints: []string{"https://a:1", "https://[fd00::1]:2"}, TLSConfig: own, Root: "/x/"}, "bob", "", nil},
		{"development", Config{Endpoints: []string{"http://127.0.0.1:2379"}, InsecureDevelopmentOnly: true}, "development", "", nil},
		{"password file", Config{Endpoints: one, TLS: caOnly, User: "dave", PasswordFile: passwordFile}, "dave", "", nil},
		{"password", Config{Endpoints: one, TLSConfig: &tls.Config{RootCAs: ca.Pool()}, User: "dave", Password: NewSecret("hunter2")}, "dave", "", nil},
		{"a user without a password", Config{Endpoints: one, TLS: caOnly, User: "dave"}, "", `etcd: no password of the User "dave": give PasswordFile, or Password`, nil},
		{
			"a password without a user",
			Config{Endpoints: one, TLS: files, Password: NewSecret("hunter2")},
			"",
			"etcd: a password is given and no User: give the name of the etcd user, too", nil,
		},
		{
			"two passwords, and a principal",
			Config{Endpoints: one, TLS: caOnly, User: "dave", Password: NewSecret("hunter2"), PasswordFile: passwordFile, Principal: "x"},
			"",
			"etcd: both PasswordFile and Password are given: give one\n" +
				"a Principal is given, but the User says who we are: leave it out", nil,
		},
		{
			"a password file that is not there",
			Config{Endpoints: one, TLS: TLS{CAFile: filepath.Join(dir, "x")}, User: "dave", PasswordFile: dir},
			"",
			`etcd: password "DIR" is not a regular file: insecure configuration
CA "DIR/x" cannot be opened: no such file or directory`, naming.ErrInsecureConfig,
		},
		{
			"a certificate and a password",
			Config{Endpoints: one, TLS: files, User: "dave", PasswordFile: passwordFile},
			"",
			"etcd: both a client certificate and a User are given, and each says who we are: give one", nil,
		},
		{
			"own tls.Config with a certificate, and a password",
			Config{Endpoints: one, TLSConfig: own, User: "dave", PasswordFile: passwordFile},
			"",
			"etcd: both a client certificate and a User are given, and each says who we are: give one", nil,
		},
		{
			"a password over plaintext",
			Config{Endpoints: []string{"http://127.0.0.1:2379"}, InsecureDevelopmentOnly: true, User: "dave", PasswordFile: passwordFile},
			"",
			"etcd: a User is given: insecure configuration: without TLS everybody on the way reads the password: make the Endpoints https", naming.ErrInsecureConfig,
		},
		{
			"client and password",
			Config{Client: &clientv3.Client{Username: "carol"}, User: "dave", PasswordFile: passwordFile},
			"",
			"etcd: field Client logs in by itself: give no User beside it", nil,
		},
		{"nothing", Config{}, "", "etcd: no Endpoints: give at least one, such as https://10.0.0.1:2379\n" +
			"client certificate: no file is given\nprivate key: no file is given\nCA: no file is given", nil},
		{"everything wrong", Config{
			Endpoints: []string{"https://a", "a:2379", "http://b:1", "https://c:0", "https://d:1/x", "https://u@e:1", "https://f:1", "https://f:1"},
			Root:      "x", DefaultTTL: time.Second, ReauthorizeEvery: time.Minute, Principal: "p", TLS: files, TLSConfig: own,
		}, "", `etcd: root "x" is not like /skywarden or /prod/skywarden: letters, digits, "_" and "-" between slashes
DefaultTTL is 1s: 3s at least
ReauthorizeEvery is 1m0s: more than 0 and 50s at most
endpoint "https://a" has no port from 1 to 65535
endpoint "a:2379" is not https://HOST:PORT
endpoint "http://b:1": insecure configuration: without TLS everybody on the way reads and changes what is said: use https
endpoint "https://c:0" has no port from 1 to 65535
endpoint "https://d:1/x" is not https://HOST:PORT
endpoint "https://u@e:1" is not https://HOST:PORT
endpoint "https://f:1" is there twice
some Endpoints are http and some https: make all of them https
TLS is given for Endpoints that do not use it: make them https`, naming.ErrInsecureConfig},
		{"both kinds of TLS", Config{Endpoints: one, TLS: files, TLSConfig: own}, "", "etcd: both TLS and TLSConfig are given: give one", nil},
		{
			"principal beside a certificate",
			Config{Endpoints: one, TLS: files, Principal: "x"},
			"",
			"etcd: a Principal is given, but the certificate says who we are: leave it out", nil,
		},
		{
			"no verification",
			Config{Endpoints: one, TLSConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10}},
			"",
			`etcd: TLSConfig.InsecureSkipVerify: insecure configuration: anybody could pass for the server: give RootCAs instead
TLSConfig.MinVersion: insecure configuration: TLS 1.2 at least, better 1.3
TLSConfig has no client certificate, which is what etcd knows users by: not authenticated`, naming.ErrInsecureConfig,
		},
		{
			"nobody's certificate",
			Config{Endpoints: one, TLS: TLS{CertFile: nobodyCert, KeyFile: nobodyKey, CAFile: files.CAFile}},
			"",
			"etcd: the client certificate has no common name, and that is what etcd takes for the user: not authenticated", naming.ErrUnauthenticated,
		},
		{
			"client and endpoints",
			Config{Client: &clientv3.Client{}, Endpoints: one},
			"",
			"etcd: field Client has its own endpoints and TLS: give no Endpoints, TLS and TLSConfig beside it\n" +
				"no Principal, which is needed with a Client that has no Username: the user that its certificate names", nil,
		},
		{"client", Config{Client: &clientv3.Client{Username: "carol"}}, "carol", "", nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, err := test.cfg.check()
			if test.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if who, err := s.principal(); err != nil || who != test.who {
					t.Errorf("principal %q, %v, want %q", who, err, test.who)
				}
				return
			}
			if err == nil {
				t.Fatal("no error")
			}
			if diff := cmp.Diff(test.want, strings.ReplaceAll(err.Error(), filepath.ToSlash(dir), "DIR")); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if test.kind != nil && !errors.Is(err, test.kind) {
				t.Errorf("the error is not %v", test.kind)
			}
			// Open says the same, and starts nothing.
			if b, err := Open(t.Context(), test.cfg); err == nil {
				b.Close()
				t.Error("Open takes it")
			}
		})
	}
}

func TestTLSVersions(t *testing.T) {
	ca := testca.New(t)
	dir := t.TempDir()
	cert, key := ca.Client(t, "alice").WriteFiles(t, dir, "alice")
	files := TLS{CertFile: cert, KeyFile: key, CAFile: ca.WriteFile(t, dir, "ca")}
	old := files
	old.AllowTLS12 = true
	own := tls.Config{Certificates: []tls.Certificate{ca.Client(t, "bob").TLS()}, RootCAs: x509.NewCertPool()}
	own12 := own.Clone()
	own12.MinVersion = tls.VersionTLS12
	for name, test := range map[string]struct {
		cfg  Config
		want uint16
	}{
		"files":            {Config{TLS: files}, tls.VersionTLS13},
		"files, 1.2":       {Config{TLS: old}, tls.VersionTLS12},
		"own, not said":    {Config{TLSConfig: own.Clone()}, tls.VersionTLS13},
		"own, 1.2 is said": {Config{TLSConfig: own12}, tls.VersionTLS12},
	} {
		test.cfg.Endpoints = []string{"https://a:1"}
		s, err := test.cfg.check()
		if err != nil {
			t.Fatal(err)
		}
		if got := s.tls(); got.MinVersion != test.want || got.InsecureSkipVerify {
			t.Errorf("%s: TLS %x at least (skips verification: %v), want %x", name, got.MinVersion, got.InsecureSkipVerify, test.want)
		}
	}
}
