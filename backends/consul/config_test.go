package consul

import (
	"context"
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seed-6593ebad/skywarden/internal/secretfile"
	"github.com/seed-6593ebad/skywarden/internal/testca"
	"github.com/seed-6593ebad/skywarden/naming"
)

func TestConfig(t *testing.T) {
	ca := testca.New(t)
	dir := t.TempDir()
	cert, key := ca.Client(t, "alice").WriteFiles(t, dir, "alice")
	files := TLS{CAFile: ca.WriteFile(t, dir, "ca")}
	token, loose := filepath.Join(dir, "token"), filepath.Join(dir, "loose")
	for path, mode := range map[string]os.FileMode{token: 0o600, loose: 0o644} {
		if err := os.WriteFile(path, []byte("secret\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	own := &tls.Config{RootCAs: ca.Pool()}
	one := []string{"https://10.0.0.1:8501"}
	ask := func(context.Context) (Secret, error) { return NewSecret("asked"), nil }
	// good is completed by what each test changes.
	good := func(change func(*Config)) Config {
		cfg := Config{Addresses: one, TLS: files, Principal: "alice", Token: NewSecret("secret")}
		change(&cfg)
		return cfg
	}

	tests := []struct {
		name  string
		cfg   Config
		node  string // where it is good
		token string // where it is good
		want  string // DIR stands for the directory of the files
		kind  error
	}{
		{"token", good(func(*Config) {}), "skywarden-alice", "secret", "", nil},
		{"token file", good(func(c *Config) { c.Token, c.TokenFile, c.Root = Secret{}, token, "prod/x" }), "prod-x-alice", "secret", "", nil},
		{"token function", good(func(c *Config) { c.Token, c.TokenFunc, c.Node = Secret{}, ask, "n.1" }), "n.1", "asked", "", nil},
		{"client certificate", good(func(c *Config) { c.TLS.CertFile, c.TLS.KeyFile = cert, key }), "skywarden-alice", "secret", "", nil},
		{"own tls.Config", good(func(c *Config) { c.TLS, c.TLSConfig = TLS{}, own }), "skywarden-alice", "secret", "", nil},
		{"development", Config{Addresses: []string{"http://127.0.0.1:8500"}, Principal: "me", InsecureDevelopmentOnly: true}, "skywarden-me", "", "", nil},
		{
			"nothing", Config{}, "", "", `consul: principal "": 1 to 64 letters, digits, "_" and "-", because policies and nodes of Consul are called after it
no token: insecure configuration: give TokenFile, Token or TokenFunc: what we may do is said by it
no Addresses: give at least one, such as https://10.0.0.1:8501
CA: no file is given`, naming.ErrInsecureConfig,
		},
		{
			"everything wrong", Config{
				Addresses: []string{"https://a", "a:8501", "http://b:1", "https://c:0", "https://d:1/x", "https://u@e:1", "https://f:1", "https://f:1", "unix:///x"},
				Root:      "/x", Node: "a/b", Principal: "a b", MinTTL: time.Second, TLS: files, TLSConfig: own,
				Token: NewSecret("secret"), TokenFile: token, TokenFunc: ask,
			}, "", "", `consul: principal "a b": 1 to 64 letters, digits, "_" and "-", because policies and nodes of Consul are called after it
root "/x" is not like skywarden or prod/skywarden: letters, digits, "_" and "-" between slashes, and none at the ends
node "a/b": 1 to 128 letters, digits, "_", "-" and dots, and first a letter or digit
MinTTL is 1s: 3s at least and 24h0m0s at most
more than one of Token, TokenFile and TokenFunc is given: give one
endpoint "https://a" has no port from 1 to 65535
endpoint "a:8501" is not https://HOST:PORT
endpoint "http://b:1": insecure configuration: without TLS everybody on the way reads and changes what is said: use https
endpoint "https://c:0" has no port from 1 to 65535
endpoint "https://d:1/x" is not https://HOST:PORT
endpoint "https://u@e:1" is not https://HOST:PORT
endpoint "https://f:1" is there twice
endpoint "unix:///x" is not https://HOST:PORT
some Addresses are http and some https: make all of them https
TLS is given for Addresses that do not use it: make them https`, naming.ErrInsecureConfig,
		},
		{
			"default shorter than the least", good(func(c *Config) { c.DefaultTTL = 5 * time.Second }), "", "",
			"consul: DefaultTTL is 5s: 10s at least, the servers' session_ttl_min, and 24h0m0s at most", nil,
		},
		{
			"default longer than the most", good(func(c *Config) { c.DefaultTTL = 25 * time.Hour }), "", "",
			"consul: DefaultTTL is 25h0m0s: 10s at least, the servers' session_ttl_min, and 24h0m0s at most", nil,
		},
		{"both kinds of TLS", good(func(c *Config) { c.TLSConfig = own }), "", "", "consul: both TLS and TLSConfig are given: give one", nil},
		{
			"no verification",
			good(func(c *Config) {
				c.TLS, c.TLSConfig = TLS{}, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10}
			}),
			"", "", `consul: TLSConfig.InsecureSkipVerify: insecure configuration: anybody could pass for the server: give RootCAs instead
TLSConfig.MinVersion: insecure configuration: TLS 1.2 at least, better 1.3`, naming.ErrInsecureConfig,
		},
		{
			"token file that others may read", good(func(c *Config) { c.Token, c.TokenFile = Secret{}, loose }), "", "",
			`consul: token "DIR/loose" has mode 0644, nobody but its owner may have access to it: chmod go-rwx: insecure configuration`, naming.ErrInsecureConfig,
		},
		{
			"no token file", good(func(c *Config) { c.Token, c.TokenFile = Secret{}, filepath.Join(dir, "none") }), "", "",
			`consul: token "DIR/none" cannot be opened: no such file or directory`, nil,
		},
		{
			"token that no header may have", good(func(c *Config) { c.Token = NewSecret("secret\r\nX-Other: 1") }), "", "",
			"consul: token with a space or a character that is not ASCII: no secret of Consul has one", nil,
		},
		{
			"certificate without a key", good(func(c *Config) { c.TLS.CertFile = cert }), "", "",
			"consul: private key: no file is given", nil,
		},
		{
			"root and principal too long for a node", good(func(c *Config) { c.Root = strings.Repeat("r", 100); c.Principal = strings.Repeat("p", 64) }), "", "",
			`consul: node "` + strings.Repeat("r", 100) + "-" + strings.Repeat("p", 64) + `": 1 to 128 letters, digits, "_", "-" and dots, and first a letter or digit`, nil,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, err := test.cfg.check()
			if test.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				token, err := s.token(t.Context())
				if secretfile.Reveal(token) != test.token || s.Node != test.node || err != nil {
					t.Errorf("node %q and token %q, %v, want %q and %q", s.Node, secretfile.Reveal(token), err, test.node, test.token)
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

func TestDefaultsOfTTLs(t *testing.T) {
	for given, want := range map[[2]time.Duration][2]time.Duration{
		{}:                                 {10 * time.Second, 10 * time.Second},
		{0, 3 * time.Second}:               {10 * time.Second, 3 * time.Second},
		{0, time.Minute}:                   {time.Minute, time.Minute},
		{5 * time.Second, 3 * time.Second}: {5 * time.Second, 3 * time.Second},
		{MaxTTL, LeastTTL}:                 {MaxTTL, LeastTTL},
	} {
		s := &settings{Config: Config{DefaultTTL: given[0], MinTTL: given[1]}}
		if err := s.useTTLs(); err != nil || s.DefaultTTL != want[0] || s.MinTTL != want[1] {
			t.Errorf("%v becomes %v and %v, %v, want %v", given, s.DefaultTTL, s.MinTTL, err, want)
		}
	}
}

func TestTLSVersions(t *testing.T) {
	ca := testca.New(t)
	files := TLS{CAFile: ca.WriteFile(t, t.TempDir(), "ca")}
	old := files
	old.AllowTLS12 = true
	for name, test := range map[string]struct {
		cfg  Config
		want uint16
	}{
		"files":            {Config{TLS: files}, tls.VersionTLS13},
		"files, 1.2":       {Config{TLS: old}, tls.VersionTLS12},
		"own, not said":    {Config{TLSConfig: &tls.Config{RootCAs: ca.Pool()}}, tls.VersionTLS13},
		"own, 1.2 is said": {Config{TLSConfig: &tls.Config{RootCAs: ca.Pool(), MinVersion: tls.VersionTLS12}}, tls.VersionTLS12},
	} {
		test.cfg.Addresses, test.cfg.Principal, test.cfg.Token = []string{"https://a:1"}, "alice", NewSecret("x")
		s, err := test.cfg.check()
		if err != nil {
			t.Fatal(err)
		}
		if got := s.tls(); got.MinVersion != test.want || got.InsecureSkipVerify {
			t.Errorf("%s: TLS %x at least (skips verification: %v), want %x", name, got.MinVersion, got.InsecureSkipVerify, test.want)
		}
	}
}
