package configs

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/seed-6593ebad/skywarden/adapter"
	"github.com/seed-6593ebad/skywarden/backends/consul"
	"github.com/seed-6593ebad/skywarden/naming"
)

// consulFiles writes what consul.yaml refers to, and gives its path.
func consulFiles(t *testing.T, secret string) string {
	t.Helper()
	dir := t.TempDir()
	writeTLSFiles(t, dir, "game")
	if err := os.WriteFile(filepath.Join(dir, "game.token"), []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "consul.yaml")
}

func TestLoadConsulSample(t *testing.T) {
	const canary = "2cdd5b9f-hunter2"
	file := consulFiles(t, canary)
	dir := filepath.Dir(file)
	got, err := parse(file, []byte(ConsulSample), []string{"echo"})
	if err != nil {
		t.Fatal(err)
	}
	game, err := naming.ParseFamily("game.")
	if err != nil {
		t.Fatal(err)
	}
	addresses := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")}
	allow, err := adapter.NewAllowList([]adapter.Rule{
		{Scope: game, Owners: []string{"game"}, Addresses: addresses, Ports: []adapter.PortRange{{First: 7000, Last: 7999}}},
		{Scope: naming.Only(name(t, "billing")), Owners: []string{"billing"}, Addresses: addresses, Readers: []string{"billing", "game"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Node:   nodeID(t, "game-1"),
		Listen: netip.MustParseAddrPort("127.0.0.1:7000"), Advertise: netip.MustParseAddrPort("127.0.0.1:7000"),
		Consul: &consul.Config{
			Addresses: []string{"https://127.0.0.1:8501"}, Principal: "game", TokenFile: filepath.Join(dir, "game.token"),
			Root: "skywarden", Node: "skywarden-game", Datacenter: "dc1", MinTTL: 10 * time.Second,
			TLS: consul.TLS{
				CAFile: filepath.Join(dir, "ca.pem"), CertFile: filepath.Join(dir, "game.pem"), KeyFile: filepath.Join(dir, "game-key.pem"),
				ServerName: "localhost",
			},
		},
		TTL: 10 * time.Second, MaxStale: 10 * time.Minute,
		Allow:    allow,
		Services: []Service{{Name: name(t, "game.lobby"), Kind: "echo", Standby: true}},
		Log:      Log{Level: zerolog.InfoLevel},
		file:     file,
	}
	if diff := cmp.Diff(want, got, compare); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	t.Setenv("SKYWARDEN_TEST_TOKEN", canary)
	got, err = parse(file, []byte(strings.Replace(ConsulSample, "{file: game.token}", "{env: SKYWARDEN_TEST_TOKEN}", 1)), []string{"echo"})
	if err != nil {
		t.Fatal(err)
	}
	if got.Consul.Token == (consul.Secret{}) || got.Consul.TokenFile != "" {
		t.Errorf("got %+v, want the token and no file", got.Consul)
	}
	for _, text := range []string{fmt.Sprintf("%+v", got.Consul), fmt.Sprintf("%#v", *got.Consul), fmt.Sprintf("%+v", got)} {
		if strings.Contains(text, canary) {
			t.Errorf("the token is printed: %s", text)
		}
	}

	// The minimum of the servers lets a shorter TTL pass.
	short := strings.NewReplacer("session_ttl_min: 10s", "session_ttl_min: 3s", "\nttl: 10s", "\nttl: 4s").Replace(ConsulSample)
	if got, err = parse(file, []byte(short), []string{"echo"}); err != nil || got.TTL != 4*time.Second {
		t.Errorf("a short TTL: %v", err)
	}
}

// A token that others may read is refused, with the place of the reference.
func TestTokenReadableByOthers(t *testing.T) {
	file := consulFiles(t, "2cdd5b9f-hunter2")
	if err := os.Chmod(filepath.Join(filepath.Dir(file), "game.token"), 0o640); err != nil {
		t.Fatal(err)
	}
	_, err := parse(file, []byte(ConsulSample), []string{"echo"})
	if runtime.GOOS == "windows" { // where modes say nothing
		if err != nil {
			t.Error(err)
		}
		return
	}
	if !errors.Is(err, naming.ErrInsecureConfig) || !strings.Contains(err.Error(), "backend.consul.token: ") || !strings.Contains(err.Error(), "0640") {
		t.Errorf("got %v, want %v at backend.consul.token", err, naming.ErrInsecureConfig)
	}
}

// The sample's policies are what its allow-list asks for, letter by letter.
func TestConsulPolicies(t *testing.T) {
	c, err := parse(consulFiles(t, "2cdd5b9f-hunter2"), []byte(ConsulSample), []string{"echo"})
	if err != nil {
		t.Fatal(err)
	}
	files, err := consul.Render(c.Consul.Root, c.Allow.Grants())
	if err != nil {
		t.Fatal(err)
	}
	policies := 0
	for _, f := range files {
		if strings.HasPrefix(f.Name, "policy-") {
			policies++
			if !strings.Contains(ConsulPolicies+"\n", "\n"+string(f.Content)+"\n") {
				t.Errorf("consul-acl.hcl has not\n%s", f.Content)
			}
		}
	}
	if got := strings.Count(ConsulPolicies, "\n# policy "); got != policies || policies != 2 {
		t.Errorf("consul-acl.hcl has %d policies, and %d are wanted", got, policies)
	}
}

func TestConsulInsecureIsTold(t *testing.T) {
	const head = "node: a\nlisten: 127.0.0.1:7000\nallow: []\n"
	for file, insecure := range map[string]bool{
		"backend: {consul: {addresses: [http://a:1]}}":                                              true,
		"backend: {consul: {addresses: [https://a:1], principal: a, tls: {ca: c}, token: hunter2}}": true,
		"backend: {consul: {addresses: [https://a:1], principal: a, token: {file: f}}}":             true,
		"backend: {consul: {addresses: [https://a:1], principal: a, tls: {ca: c}}}":                 true,
		"backend: {consul: {addresses: [https://a:1], principal: a, tls: {}, token: {file: f}}}":    false,
	} {
		_, err := parse("f.yaml", []byte(head+file), nil)
		if err == nil || errors.Is(err, naming.ErrInsecureConfig) != insecure || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s\ngot %v, insecure wanted: %v", file, err, insecure)
		}
	}
}

// Whoever provisions has no token of the principal yet.
func TestOpenConsulAdmin(t *testing.T) {
	file := consulFiles(t, "2cdd5b9f-hunter2")
	dir := filepath.Dir(file)
	if err := os.Rename(filepath.Join(dir, "game.token"), filepath.Join(dir, "management.token")); err != nil {
		t.Fatal(err)
	}
	sample := []byte(strings.Replace(ConsulSample, "127.0.0.1:8501", "127.0.0.1:1", 1))
	if _, err := parse(file, sample, []string{"echo"}); err == nil || !strings.Contains(err.Error(), "game.token") {
		t.Errorf("a node without its token: %v", err)
	}
	c, err := (&reader{file: file, forAdmin: true}).parse(sample, []string{"echo"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Driver() != "consul" || c.Root() != "skywarden" {
		t.Errorf("got %s, %s", c.Driver(), c.Root())
	}
	management := filepath.Join(dir, "management.token")
	for want, admin := range map[string]Admin{
		`game.token" cannot be opened`: {}, // the file's own
		"consul has no users":          {User: "root", PasswordFile: "p", TokenFile: management},
		"given together":               {CertFile: "c", TokenFile: management},
		`"nowhere" cannot be opened`:   {TokenFile: "nowhere"},
		`"c" cannot be opened`:         {CertFile: "c", KeyFile: "k", TokenFile: management},
	} {
		if _, err := c.OpenAdmin(t.Context(), admin); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %s", admin, err, want)
		}
	}
	// It works once the server is there.
	admin, err := c.OpenAdmin(t.Context(), Admin{TokenFile: management, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	if err := admin.Close(); err != nil {
		t.Error(err)
	}
	if _, err := loadEtcdSample(t).OpenAdmin(t.Context(), Admin{TokenFile: management}); err == nil || !strings.Contains(err.Error(), "knows no tokens") {
		t.Errorf("a token for etcd: %v", err)
	}
}
