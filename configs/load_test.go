package configs

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/rs/zerolog"

	"github.com/seed-6593ebad/skywarden/adapter"
	"github.com/seed-6593ebad/skywarden/backends/consul"
	"github.com/seed-6593ebad/skywarden/backends/etcd"
	"github.com/seed-6593ebad/skywarden/internal/testca"
	"github.com/seed-6593ebad/skywarden/naming"
)

var update = flag.Bool("update", false, "write the wanted messages anew")

func parse(file string, data []byte, kinds []string) (*Config, error) {
	return (&reader{file: file}).parse(data, kinds)
}

// TestBadConfigurations compares, letter by letter, what Load says about each
// configuration in testdata/bad.txtar.
func TestBadConfigurations(t *testing.T) {
	golden, err := filepath.Abs("testdata/bad.txtar")
	if err != nil {
		t.Fatal(err)
	}
	archive, err := txtar.ParseFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir()) // so that messages have short paths
	writeTLSFiles(t, ".", "node")
	for file, content := range map[string]string{"good-password": "hunter2\n", "empty-password": "\n", "long-password": "hunter2\nhunter3\n"} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("SKYWARDEN_TEST_LISTEN", "localhost:7000")
	t.Setenv("SKYWARDEN_TEST_EMPTY", "")
	t.Setenv("SKYWARDEN_TEST_NO_KEY", "hunter2")
	key, err := os.ReadFile("node-key.pem")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("SKYWARDEN_TEST_KEY", string(key))

	wanted := map[string]string{}
	for _, f := range archive.Files {
		if name, ok := strings.CutSuffix(f.Name, ".want"); ok {
			wanted[name] = string(f.Data)
		}
	}
	written := &txtar.Archive{Comment: archive.Comment}
	configurations := 0
	for _, f := range archive.Files {
		name, ok := strings.CutSuffix(f.Name, ".yaml")
		if !ok {
			continue
		}
		configurations++
		if err := os.WriteFile(f.Name, f.Data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Load(f.Name, "echo", "counter")
		if err == nil {
			t.Errorf("%s is accepted", f.Name)
			continue
		}
		got := err.Error() + "\n"
		for line := range strings.Lines(got) {
			if !strings.HasPrefix(line, f.Name+":") || line[len(f.Name)+1] < '1' || line[len(f.Name)+1] > '9' {
				t.Errorf("%s: message without file and line: %q", f.Name, line)
			}
			if strings.Contains(line, "hunter") {
				t.Errorf("%s: message repeats a secret: %q", f.Name, line)
			}
		}
		if diff := cmp.Diff(wanted[name], got); diff != "" && !*update {
			t.Errorf("%s (-want +got):\n%s", f.Name, diff)
		}
		written.Files = append(written.Files, f, txtar.File{Name: name + ".want", Data: []byte(got)})
	}
	if configurations < 40 {
		t.Errorf("%d bad configurations, want 40 at least", configurations)
	}
	if *update && !t.Failed() {
		if err := os.WriteFile(golden, bytes.TrimLeft(txtar.Format(written), "\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// Problems of a file as a whole, or of bytes that an archive of text cannot
// hold.
func TestBadFiles(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, test := range []struct{ name, data, want string }{
		{"utf16.yaml", "\xff\xfen\x00o\x00", "utf16.yaml:1:1: is not UTF-8 text (save the file as UTF-8)"},
		{"latin1.yaml", "node: a\nlisten: caf\xe9\n", "latin1.yaml:2:12: is not UTF-8 text (save the file as UTF-8)"},
		{"nul.yaml", "node: é\x00\n", "nul.yaml:1:8: has the control character U+0000 (remove it)"},
		{"big.yaml", strings.Repeat("# no\n", maxFileSize/5+1), "big.yaml: is larger than 1048576 bytes (this is not a configuration file)"},
	} {
		if err := os.WriteFile(test.name, []byte(test.data), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(test.name); err == nil || err.Error() != test.want {
			t.Errorf("got  %v\nwant %s", err, test.want)
		}
	}
	if _, err := Load("nothing.yaml"); err == nil || err.Error() != "nothing.yaml: does not exist (give the path of a configuration file)" {
		t.Errorf("missing file: %v", err)
	}
	if _, err := Load("."); err == nil || !strings.HasPrefix(err.Error(), ".: ") {
		t.Errorf("directory: %v", err)
	}
}

// What would make a node unsafe is ErrInsecureConfig, other mistakes are not.
func TestInsecureIsTold(t *testing.T) {
	const head = "node: a\nlisten: 127.0.0.1:7000\n"
	for _, test := range []struct {
		file     string
		insecure bool
	}{
		{head + "backend: {etcd: {endpoints: [http://a:1]}}\nallow: []\n", true},
		{head + "backend: {etcd: {endpoints: [https://a:1], tls: {ca: c, cert: d, key: e}}}\nallow: []\n", true},
		{head + "backend: {etcd: {endpoints: [https://a:1]}}\n", true},
		{head + "backend: {memory: {}}\nttl: x\n", false},
	} {
		_, err := parse("f.yaml", []byte(test.file), nil)
		if err == nil || errors.Is(err, naming.ErrInsecureConfig) != test.insecure {
			t.Errorf("%s\ngot %v, insecure wanted: %v", test.file, err, test.insecure)
		}
		if problem, ok := errors.AsType[*FileError](err); !ok || problem.Line == 0 || problem.File != "f.yaml" {
			t.Errorf("no FileError with a position: %v", err)
		}
	}
}

// TestLoadMemorySample and TestLoadEtcdSample read the samples as they are.
func TestLoadMemorySample(t *testing.T) {
	got, err := parse("memory.yaml", []byte(MemorySample), []string{"echo", "counter"})
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Node:   nodeID(t, "game-1"),
		Listen: netip.MustParseAddrPort("127.0.0.1:7000"), Advertise: netip.MustParseAddrPort("127.0.0.1:7000"),
		Memory:   &Memory{},
		Services: []Service{{Name: name(t, "game.lobby"), Kind: "echo"}, {Name: name(t, "game.score"), Kind: "counter"}},
		Log:      Log{Level: zerolog.InfoLevel, Console: true},
		file:     "memory.yaml",
	}
	if diff := cmp.Diff(want, got, compare); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLoadEtcdSample(t *testing.T) {
	dir := t.TempDir()
	writeTLSFiles(t, dir, "game")
	file := filepath.Join(dir, "etcd.yaml")
	got, err := parse(file, []byte(EtcdSample), []string{"echo"})
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
		Etcd: &etcd.Config{
			Endpoints: []string{"https://127.0.0.1:2379"}, Root: "/skywarden",
			TLS: etcd.TLS{
				CAFile: filepath.Join(dir, "ca.pem"), CertFile: filepath.Join(dir, "game.pem"), KeyFile: filepath.Join(dir, "game-key.pem"),
				ServerName: "localhost",
			},
		},
		TTL: 5 * time.Second, MaxStale: 10 * time.Minute,
		Allow:    allow,
		Services: []Service{{Name: name(t, "game.lobby"), Kind: "echo", Standby: true}},
		Log:      Log{Level: zerolog.InfoLevel},
		file:     file,
	}
	if diff := cmp.Diff(want, got, compare); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// byPassword is the sample with its certificate replaced by what is a comment in
// it.
func byPassword(t *testing.T) string {
	t.Helper()
	sample := EtcdSample
	for _, change := range [][2]string{
		{"      cert: game.pem\n", ""},
		{"      key: {file: game-key.pem}\n", ""},
		{"    # user: game\n", "    user: game\n"},
		{"    # password: {file: game-password}\n", "    password: {file: game-password}\n"},
	} {
		if strings.Count(sample, change[0]) != 1 {
			t.Fatalf("the sample does not have %q once", change[0])
		}
		sample = strings.Replace(sample, change[0], change[1], 1)
	}
	return sample
}

func TestLoadEtcdWithPassword(t *testing.T) {
	const canary = "hunter2"
	dir := t.TempDir()
	writeTLSFiles(t, dir, "game")
	password, file := filepath.Join(dir, "game-password"), filepath.Join(dir, "etcd.yaml")
	if err := os.WriteFile(password, []byte(canary+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := parse(file, []byte(byPassword(t)), []string{"echo"})
	if err != nil {
		t.Fatal(err)
	}
	want := &etcd.Config{
		Endpoints: []string{"https://127.0.0.1:2379"}, Root: "/skywarden",
		TLS:  etcd.TLS{CAFile: filepath.Join(dir, "ca.pem"), ServerName: "localhost"},
		User: "game", PasswordFile: password,
	}
	if diff := cmp.Diff(want, got.Etcd, compare); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	t.Setenv("SKYWARDEN_TEST_PASSWORD", canary)
	got, err = parse(file, []byte(strings.Replace(byPassword(t), "{file: game-password}", "{env: SKYWARDEN_TEST_PASSWORD}", 1)), []string{"echo"})
	if err != nil {
		t.Fatal(err)
	}
	if got.Etcd.Password == (etcd.Secret{}) || got.Etcd.PasswordFile != "" {
		t.Errorf("got %+v, want the password and no file", got.Etcd)
	}
	for _, text := range []string{fmt.Sprintf("%+v", got.Etcd), fmt.Sprintf("%#v", *got.Etcd), fmt.Sprintf("%+v", got)} {
		if strings.Contains(text, canary) {
			t.Errorf("the password is printed: %s", text)
		}
	}

	if err := os.Chmod(password, 0o640); err != nil {
		t.Fatal(err)
	}
	_, err = parse(file, []byte(byPassword(t)), []string{"echo"})
	if runtime.GOOS == "windows" { // where modes say nothing
		if err != nil {
			t.Error(err)
		}
		return
	}
	if !errors.Is(err, naming.ErrInsecureConfig) || !strings.Contains(err.Error(), "backend.etcd.password: ") || !strings.Contains(err.Error(), "0640") {
		t.Errorf("got %v, want %v at backend.etcd.password", err, naming.ErrInsecureConfig)
	}
}

// A private key that others may read is refused, with the place of the reference.
func TestKeyReadableByOthers(t *testing.T) {
	dir := t.TempDir()
	writeTLSFiles(t, dir, "game")
	if err := os.Chmod(filepath.Join(dir, "game-key.pem"), 0o640); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "etcd.yaml")
	_, err := parse(file, []byte(EtcdSample), []string{"echo"})
	if runtime.GOOS == "windows" { // where modes say nothing
		if err != nil {
			t.Error(err)
		}
		return
	}
	if !errors.Is(err, naming.ErrInsecureConfig) || !strings.Contains(err.Error(), "backend.etcd.tls: ") || !strings.Contains(err.Error(), "0640") {
		t.Errorf("got %v, want %v at backend.etcd.tls", err, naming.ErrInsecureConfig)
	}
}

// A private key that comes from the environment is the one that is used, and is
// neither in a message nor in a Config that is printed.
func TestKeyFromEnvironment(t *testing.T) {
	dir := t.TempDir()
	writeTLSFiles(t, dir, "game")
	keyFile := filepath.Join(dir, "game-key.pem")
	key, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(keyFile); err != nil {
		t.Fatal(err)
	}
	sample := strings.Replace(EtcdSample, "{file: game-key.pem}", "{env: SKYWARDEN_TEST_KEY}", 1)
	load := func(file, pem string) (*Config, error) {
		t.Setenv("SKYWARDEN_TEST_KEY", pem)
		return parse(filepath.Join(dir, "etcd.yaml"), []byte(file), []string{"echo"})
	}
	silent := func(pem, what, text string) {
		t.Helper()
		for line := range strings.Lines(pem) {
			if line = strings.TrimSpace(line); !strings.HasPrefix(line, "-----") && strings.Contains(text, line) {
				t.Errorf("%s has %q of the key in it:\n%s", what, line, text)
			}
		}
	}

	c, err := load(sample, string(key))
	if err != nil {
		t.Fatal(err)
	}
	if c.Etcd.TLS.Key == (etcd.Secret{}) || c.Etcd.TLS.KeyFile != "" {
		t.Errorf("got %+v, want the key and no file", c.Etcd.TLS)
	}
	for _, v := range []any{c, *c, c.Etcd, *c.Etcd, c.Etcd.TLS, c.Etcd.TLS.Key, &c.Etcd.TLS.Key} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			silent(string(key), fmt.Sprintf("%T printed with %s", v, verb), fmt.Sprintf(verb, v))
		}
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		silent(string(key), fmt.Sprintf("JSON of %T", v), string(text))
	}
	if got := fmt.Sprintf("%+v", c.Etcd.TLS); !strings.Contains(got, "Key:[redacted]") {
		t.Errorf("printed as %s", got)
	}

	body := strings.ReplaceAll(string(key), " PRIVATE KEY", "")
	foreign := string(testca.New(t).Client(t, "game").KeyPEM(t))
	for _, test := range []struct{ name, file, pem, want string }{
		{"another key", sample, foreign, "etcd.yaml:34:7: backend.etcd.tls: the given private key is of no use for the certificate"},
		{"half a key", sample, string(key[:len(key)/2]), "backend.etcd.tls: the given private key has no private key in PEM"},
		{"a strange type", sample, body, "backend.etcd.tls: the given private key has no private key in PEM"},
		{"written out", strings.Replace(sample, "{env: SKYWARDEN_TEST_KEY}", strconv.Quote(string(key)), 1), string(key), "tls.key: is a secret, and secrets are not written"},
		{"for a name", strings.Replace(sample, "SKYWARDEN_TEST_KEY", strconv.Quote(string(key)), 1), string(key), "tls.key: env wants the name"},
		{"for a path", strings.Replace(sample, "{env: SKYWARDEN_TEST_KEY}", "{file: {env: SKYWARDEN_TEST_KEY}}", 1), string(key), "is not a path"},
		{"for another value", strings.Replace(sample, "server_name: localhost", "server_name: {env: SKYWARDEN_TEST_KEY}", 1), string(key), "tls.server_name: "},
	} {
		_, err := load(test.file, test.pem)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %s", test.name, err, test.want)
			continue
		}
		silent(test.pem, test.name, err.Error())
	}
}

// Values that come from the environment, as in a pod.
func TestEnvironment(t *testing.T) {
	t.Setenv("SKYWARDEN_TEST_NAME", "Game-7.prod")
	t.Setenv("SKYWARDEN_TEST_ADVERTISE", "[fd00::5]:7001")
	got, err := parse("pod.yaml", []byte(`
node: {env: SKYWARDEN_TEST_NAME}
listen: "[::]:7001"
advertise: {env: SKYWARDEN_TEST_ADVERTISE}
backend: {memory: {}}
`), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.Node.String() != "game-7.prod" || got.Listen.String() != "[::]:7001" || got.Advertise.String() != "[fd00::5]:7001" {
		t.Errorf("got %+v", got)
	}
}

// No list and an empty list are two things: the empty one forbids all names.
func TestEmptyAllowListForbids(t *testing.T) {
	const file = "node: a\nlisten: 127.0.0.1:7000\nbackend: {memory: {}}\n"
	without, err := parse("f.yaml", []byte(file), nil)
	if err != nil || without.Allow != nil {
		t.Fatalf("an allow-list out of nothing: %v, %v", without, err)
	}
	empty, err := parse("f.yaml", []byte(file+"allow: []\n"), nil)
	if err != nil || empty.Allow == nil {
		t.Fatalf("got %v, %v", empty, err)
	}
	if err := empty.Allow.MayLookUp(name(t, "billing"), "billing"); !errors.Is(err, naming.ErrNameNotAllowed) {
		t.Errorf("got %v, want %v", err, naming.ErrNameNotAllowed)
	}
}

// FuzzLoad looks for a panic, and for a message without a position.
func FuzzLoad(f *testing.F) {
	archive, err := txtar.ParseFile("testdata/bad.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range archive.Files {
		f.Add(file.Data)
	}
	f.Add([]byte(MemorySample))
	f.Add([]byte(EtcdSample))
	f.Add([]byte(ConsulSample))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parse("f.yaml", data, []string{"echo"})
		if (c == nil) == (err == nil) {
			t.Fatalf("got %v and %v", c, err)
		}
		if err == nil {
			return
		}
		for line := range strings.Lines(err.Error() + "\n") {
			if !position.MatchString(line) {
				t.Errorf("no position: %q", line)
			}
		}
	})
}

var position = regexp.MustCompile(`^f\.yaml:[1-9][0-9]*:[1-9][0-9]*: [^\n\r]+\n$`)

// compare compares values that can only be had by parsing.
var compare = cmp.Options{
	cmp.AllowUnexported(Config{}, adapter.AllowList{}, naming.Name{}, naming.NodeID{}, naming.Scope{}),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b etcd.Secret) bool { return a == b }), // equal where there is none
	cmpopts.IgnoreFields(etcd.Config{}, "Logger"),               // given when it is opened
	cmpopts.IgnoreFields(consul.Config{}, "Logger"),
}

// writeTLSFiles writes ca.pem, user.pem and user-key.pem.
func writeTLSFiles(t *testing.T, dir, user string) {
	t.Helper()
	ca := testca.New(t)
	ca.WriteFile(t, dir, "ca")
	ca.Client(t, user).WriteFiles(t, dir, user)
}

func name(t *testing.T, s string) naming.Name {
	t.Helper()
	n, err := naming.ParseName(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func nodeID(t *testing.T, s string) naming.NodeID {
	t.Helper()
	id, err := naming.ParseNodeID(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}
