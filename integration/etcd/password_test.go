package etcd_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/seed-6593ebad/skywarden/backends/etcd"
	"github.com/seed-6593ebad/skywarden/integration/harness"
	"github.com/seed-6593ebad/skywarden/internal/testca"
	"github.com/seed-6593ebad/skywarden/naming"
)

// The tests here run beside each other: each has a server of its own, and mostly
// waits.

// canary is the password of every user here. It must turn up nowhere.
const canary = "canary-hunter2"

// startPasswords is start for users with passwords.
func startPasswords(t *testing.T, args ...string) *harness.Etcd {
	t.Helper()
	server := harness.StartEtcd(t, harness.EtcdOptions{Passwords: true, Args: args})
	for _, user := range []string{"alice", "bob", "carol"} {
		server.SetPassword(t, user, canary)
	}
	users(t, server)
	return server
}

// A secretFile is what a user's password is read from.
type secretFile string

func newSecretFile(tb testing.TB, content string) secretFile {
	tb.Helper()
	f := secretFile(filepath.Join(tb.TempDir(), "password"))
	f.write(tb, content)
	return f
}

// write replaces the file, as whoever rotates a secret should.
func (f secretFile) write(tb testing.TB, content string) {
	tb.Helper()
	next := string(f) + ".next"
	if err := os.WriteFile(next, []byte(content+"\n"), 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.Rename(next, string(f)); err != nil {
		tb.Fatal(err)
	}
}

func passwordConfig(tb testing.TB, server *harness.Etcd, user string, file secretFile, log zerolog.Logger) etcd.Config {
	tb.Helper()
	return etcd.Config{
		Endpoints: server.Endpoints(),
		TLS:       etcd.TLS{CAFile: server.CA.WriteFile(tb, tb.TempDir(), "ca")},
		User:      user, PasswordFile: string(file),
		Logger: log.With().Timestamp().Logger(),
	}
}

// A journal is a log that is searched for the password.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// newJournal fails the test if the password turns up in it.
func newJournal(t *testing.T) *journal {
	t.Helper()
	j := &journal{}
	t.Cleanup(func() {
		secret(t, j.String())
		if t.Failed() {
			t.Log(j.String())
		}
	})
	return j
}

func (j *journal) logger() zerolog.Logger { return zerolog.New(j).Level(zerolog.TraceLevel) }

// secret fails the test if text has the password in it.
func secret(t *testing.T, text string) {
	t.Helper()
	if strings.Contains(text, canary) {
		t.Errorf("the password turns up: %s", text)
	}
}

// logins asks the server how many logins it was asked for since it started.
func logins(t *testing.T, server *harness.Etcd) int {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: server.CA.Pool()}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.Endpoints()[0]+"/metrics", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var metrics bytes.Buffer
	if _, err := metrics.ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(metrics.String()) {
		if strings.HasPrefix(line, "grpc_server_started_total{") && strings.Contains(line, `grpc_method="Authenticate"`) {
			n, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]), 64)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
	}
	return 0 // the server tells of it from the first one on
}

// What the driver's order of questions rests on: what a server tells whoever has
// no token.
func TestPasswordWhatServersTell(t *testing.T) {
	t.Parallel()
	server := startPasswords(t)
	conn, err := grpc.NewClient(server.Address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, RootCAs: server.CA.Pool()})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	maintenance, auth := pb.NewMaintenanceClient(conn), pb.NewAuthClient(conn)
	if _, err := maintenance.Status(t.Context(), &pb.StatusRequest{}); !errors.Is(rpctypes.Error(err), rpctypes.ErrUserEmpty) {
		t.Errorf("Status without a token: %v, want %v", err, rpctypes.ErrUserEmpty)
	}
	if status, err := auth.AuthStatus(t.Context(), &pb.AuthStatusRequest{}); !status.GetEnabled() || err != nil {
		t.Errorf("AuthStatus without a token: %v, %v", status, err)
	}
	begin := time.Now()
	resp, err := auth.Authenticate(t.Context(), &pb.AuthenticateRequest{Name: "alice", Password: canary})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("a login takes %v", time.Since(begin))
	ctx := metadata.AppendToOutgoingContext(t.Context(), rpctypes.TokenFieldNameGRPC, resp.Token)
	if status, err := maintenance.Status(ctx, &pb.StatusRequest{}); err != nil {
		t.Errorf("Status with a token: %v, %v", status, err)
	}
}

func TestPasswordIsAnIdentity(t *testing.T) {
	t.Parallel()
	server := startPasswords(t)
	journal := newJournal(t)
	file := newSecretFile(t, canary)
	b := open(t, passwordConfig(t, server, "alice", file, journal.logger()))
	if who, err := b.WhoAmI(t.Context()); err != nil || who != "alice" {
		t.Errorf("WhoAmI: %q, %v, want alice", who, err)
	}
	l := lease(t, b)
	claim(t, l, "a.x", "1")
	_, err := l.Claim(t.Context(), name(t, "b.x"), nil, 0)
	mustBe(t, err, naming.ErrDenied)

	cfg := passwordConfig(t, server, "bob", "", journal.logger())
	cfg.Password = etcd.NewSecret(canary)
	claim(t, lease(t, open(t, cfg)), "b.x", "2")
	if entry, err := b.Get(t.Context(), name(t, "b.x")); err != nil || string(entry.Value) != "2" {
		t.Errorf("Get: %v, %v", entry, err)
	}
}

// A login costs the server 80 ms: it is made once, whoever calls.
func TestPasswordOneLoginForAllCalls(t *testing.T) {
	t.Parallel()
	server := startPasswords(t)
	before := logins(t, server)
	journal := newJournal(t)
	b := open(t, passwordConfig(t, server, "alice", newSecretFile(t, canary), journal.logger()))
	l := lease(t, b)
	claim(t, l, "a.x", "1")
	r := record(t, b, "a.")
	r.Wait("synced", 1, 5*time.Second)
	var calls sync.WaitGroup
	for range 50 {
		calls.Go(func() {
			for range 20 {
				if _, err := b.Get(t.Context(), name(t, "a.x")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	calls.Wait()
	if n := logins(t, server) - before; n != 1 {
		t.Errorf("%d logins for 1000 calls, a lease and a watch, want 1", n)
	}

	// Tokens are gone, for all of them at once: one more.
	server.SetPassword(t, "alice", canary)
	for range 50 {
		calls.Go(func() {
			if _, err := b.Get(t.Context(), name(t, "a.x")); err != nil {
				t.Error(err)
			}
		})
	}
	calls.Wait()
	if n := logins(t, server) - before; n != 2 {
		t.Errorf("%d logins after the tokens were lost, want 2", n)
	}
}

// The trap of clientv3: once a token has expired, new watches on an old stream
// are refused for ever, whatever calls beside do.
func TestPasswordTokenExpiresUnderAWatch(t *testing.T) {
	t.Parallel()
	server := startPasswords(t, "--auth-token-ttl=2")
	journal := newJournal(t)
	cfg := passwordConfig(t, server, "alice", newSecretFile(t, canary), journal.logger())
	cfg.ReauthorizeEvery = 5 * time.Second // the token expires in between: nothing else uses it
	b := open(t, cfg)
	before := logins(t, server)
	r := record(t, b, "b.")
	r.Wait("synced", 1, 5*time.Second)
	eventually(t, 30*time.Second, func() bool { return logins(t, server) >= before+2 })

	writer := open(t, passwordConfig(t, server, "bob", newSecretFile(t, canary), journal.logger()))
	claim(t, lease(t, writer), "b.x", "1")
	r.Wait("put b.x=1 held=true", 1, 5*time.Second)
	if got, want := r.All(), []string{"synced", "put b.x=1 held=true"}; !slices.Equal(got, want) || r.End() != nil {
		t.Errorf("the watch told %q and ended with %v, want %q: an expired token is no outage", got, r.End(), want)
	}
	// A second watch joins the stream of the first.
	again := record(t, b, "b.x")
	again.Wait("put b.x=1 held=true", 1, 5*time.Second)
}

// After a restart the server knows no token.
func TestPasswordServerRestarts(t *testing.T) {
	t.Parallel()
	server := startPasswords(t)
	journal := newJournal(t)
	b := open(t, passwordConfig(t, server, "alice", newSecretFile(t, canary), journal.logger()))
	l := lease(t, b)
	rev := claim(t, l, "a.x", "1")
	r := record(t, b, "a.")
	r.Wait("synced", 1, 5*time.Second)
	server.Kill(t)
	r.Wait("down", 1, 10*time.Second)
	server.Start(t)
	r.Wait("synced", 2, 5*time.Second)
	if _, err := l.Update(t.Context(), name(t, "a.x"), []byte("2"), rev); err != nil {
		t.Errorf("an update after the restart: %v", err)
	}
	renewed(t, l)
	// The server's own count starts anew: one login of the administrator, one of
	// ours. A second one may be from a connection that was made while the server
	// was coming up.
	if n := logins(t, server); n > 3 {
		t.Errorf("%d logins since the restart, want 3 at most", n)
	}
}

// renewed waits until a lease was renewed twice.
func renewed(t *testing.T, l naming.Lease) {
	t.Helper()
	for range 2 {
		before := l.Deadline()
		eventually(t, 10*time.Second, func() bool {
			select {
			case <-l.Done():
				t.Fatal("the lease has ended")
			default:
			}
			return l.Deadline().After(before)
		})
	}
}

// A new password: first into the file, then on the server, which ends all
// tokens. The other order works too, within the TTL.
func TestPasswordRotatedByFile(t *testing.T) {
	t.Parallel()
	server := startPasswords(t)
	journal := newJournal(t)
	file := newSecretFile(t, canary)
	b := open(t, passwordConfig(t, server, "alice", file, journal.logger()))
	l := lease(t, b)
	claim(t, l, "a.x", "1")
	r := record(t, b, "a.")
	r.Wait("synced", 1, 5*time.Second)

	file.write(t, canary+"-2")
	server.SetPassword(t, "alice", canary+"-2")
	renewed(t, l)
	claim(t, l, "a.y", "2")

	server.SetPassword(t, "alice", canary+"-3")
	_, err := b.Get(t.Context(), name(t, "a.x"))
	mustBe(t, err, naming.ErrUnauthenticated)
	secret(t, err.Error())
	file.write(t, canary+"-3")
	if _, err := b.Get(t.Context(), name(t, "a.x")); err != nil {
		t.Errorf("with a password that was changed just now: %v", err)
	}
	renewed(t, l)

	// A file that cannot be used changes nothing.
	file.write(t, "")
	server.SetPassword(t, "alice", canary+"-3")
	if _, err := b.Get(t.Context(), name(t, "a.x")); err != nil {
		t.Errorf("with an empty file: %v", err)
	}
	if !strings.Contains(journal.String(), "is empty") {
		t.Error("the log does not tell of the file that cannot be used")
	}
	claim(t, l, "a.z", "3")
	r.Wait("put a.z=3 held=true", 1, 5*time.Second)
	if got, want := r.All(), []string{"put a.x=1 held=true", "synced", "put a.y=2 held=true", "put a.z=3 held=true"}; !slices.Equal(got, want) {
		t.Errorf("the watch told %q, want %q", got, want)
	}
}

// Whose password is changed, or who is deleted, is out: writes at once, the lease
// within its TTL, watches when they are authorised again. Meanwhile the server
// has few logins to refuse.
func TestPasswordTakenAway(t *testing.T) {
	t.Parallel()
	server := startPasswords(t)
	for what, take := range map[string]func(*testing.T){
		"password changed": func(t *testing.T) { t.Helper(); server.SetPassword(t, "alice", "another") },
		"user deleted": func(t *testing.T) {
			t.Helper()
			if _, err := server.Admin.UserDelete(t.Context(), "alice"); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			server.SetPassword(t, "alice", canary)
			server.SetUser(t, "alice", "names-read", "own-a")
			journal := newJournal(t)
			cfg := passwordConfig(t, server, "alice", newSecretFile(t, canary), journal.logger())
			cfg.ReauthorizeEvery = 3 * time.Second // instead of 45 s
			b := open(t, cfg)
			l := lease(t, b)
			// A name of its own: who was refused cannot give it up, and it is there for a TTL.
			mine := "a." + strings.ReplaceAll(what, " ", "-")
			rev := claim(t, l, mine, "1") // with TTL 5 s
			r := record(t, b, "a.")
			r.Wait("synced", 1, 5*time.Second)

			before, begin := logins(t, server), time.Now()
			take(t)
			_, err := l.Update(t.Context(), name(t, mine), []byte("2"), rev)
			mustBe(t, err, naming.ErrUnauthenticated)
			secret(t, err.Error())
			eventually(t, 5*time.Second+slack, func() bool { return r.End() != nil })
			mustBe(t, r.End(), naming.ErrUnauthenticated)
			eventually(t, 5*time.Second+slack, func() bool {
				select {
				case <-l.Done():
					return true
				default:
					_, _ = b.Get(t.Context(), name(t, mine)) // beside the renewals, 50 a second
					return false
				}
			})
			_, err = b.WhoAmI(t.Context())
			mustBe(t, err, naming.ErrUnauthenticated)
			took := time.Since(begin)
			n := logins(t, server) - before
			t.Logf("%d logins in %v", n, took)
			if n > 8 {
				t.Errorf("%d logins in %v, want 8 at most", n, took)
			}
		})
	}
}

func TestPasswordRefusedByOpen(t *testing.T) {
	t.Parallel()
	server := startPasswords(t)
	server.SetUser(t, "dave") // who has none
	for what, test := range map[string]struct{ user, password, want string }{
		"wrong password":   {"alice", canary + "x", `the server does not accept the user "alice" with this password`},
		"no such user":     {"nobody", canary, `the server does not accept the user "nobody" with this password`},
		"no password user": {"dave", canary, `the user "dave" was made with --no-password: give it a password, or use its client certificate`},
	} {
		t.Run(what, func(t *testing.T) {
			journal := newJournal(t)
			before := logins(t, server)
			err := refused(t, passwordConfig(t, server, test.user, newSecretFile(t, test.password), journal.logger()), naming.ErrUnauthenticated)
			secret(t, err.Error())
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("the error is %q, want %q in it", err, test.want)
			}
			if n := logins(t, server) - before; n != 1 {
				t.Errorf("%d logins, want 1", n)
			}
		})
	}

	t.Run("a server that demands certificates", func(t *testing.T) {
		server := start(t)
		err := refused(t, passwordConfig(t, server, "alice", newSecretFile(t, canary), newJournal(t).logger()), naming.ErrUnauthenticated)
		if !strings.Contains(err.Error(), "demands a client certificate") {
			t.Errorf("the error does not say what the server demands: %v", err)
		}
	})
}

// A server without access control, and one that is not the one that is meant, do
// not get to see the password.
func TestPasswordIsNotShown(t *testing.T) {
	t.Parallel()
	journal := newJournal(t)
	t.Run("no access control", func(t *testing.T) {
		server := harness.StartEtcd(t, harness.EtcdOptions{Passwords: true, NoAuth: true})
		secret(t, refused(t, passwordConfig(t, server, "alice", newSecretFile(t, canary), journal.logger()), naming.ErrInsecureConfig).Error())
		if n := logins(t, server); n != 0 {
			t.Errorf("%d logins at a server without access control, want none", n)
		}
	})
	t.Run("another authority", func(t *testing.T) {
		server := startPasswords(t)
		before := logins(t, server)
		cfg := passwordConfig(t, server, "alice", newSecretFile(t, canary), journal.logger())
		cfg.TLS.CAFile = testca.New(t).WriteFile(t, t.TempDir(), "foreign")
		secret(t, refused(t, cfg, naming.ErrUnavailable).Error())
		if n := logins(t, server) - before; n != 0 {
			t.Errorf("%d logins at a server of another authority, want none", n)
		}
	})
}

// A server with known holes tells its version to users only (3.6.5: to root
// only). It is refused once that is known, before anything else is sent.
func TestPasswordVulnerableServer(t *testing.T) {
	t.Parallel()
	server := harness.StartEtcd(t, harness.EtcdOptions{Passwords: true, Version: "3.6.5"})
	server.SetPassword(t, "alice", canary)
	secret(t, refused(t, passwordConfig(t, server, "alice", newSecretFile(t, canary), newJournal(t).logger()), naming.ErrInsecureBackendVersion).Error())
}

// A server that was restored from a snapshot does not refuse an old token but
// waits for the raft index at which it was made, which may take days: every call
// with it would run into its deadline. See TestWatchAfterSnapshotRestore.
func TestPasswordAfterSnapshotRestore(t *testing.T) {
	t.Parallel()
	live, restored := startPasswords(t), startPasswords(t)
	for range 50 {
		if _, err := live.Admin.Put(t.Context(), key("a.x"), "live"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := restored.Admin.Put(t.Context(), key("a.x"), "restored"); err != nil {
		t.Fatal(err)
	}
	roots := live.CA.Pool()
	if !roots.AppendCertsFromPEM(restored.CA.PEM()) {
		t.Fatal("no CA")
	}
	roads := newCrossing(t, live.Address)
	b := open(t, etcd.Config{
		Endpoints: []string{"https://" + roads.listener.Addr().String()}, TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots},
		User: "alice", Password: etcd.NewSecret(canary), Logger: newJournal(t).logger(),
	})
	if entry, err := b.Get(t.Context(), name(t, "a.x")); err != nil || string(entry.Value) != "live" {
		t.Fatalf("before: %v, %v", entry, err)
	}
	roads.lead(restored.Address)
	eventually(t, 10*time.Second, func() bool {
		entry, err := b.Get(t.Context(), name(t, "a.x"))
		return err == nil && string(entry.Value) == "restored"
	})
}
