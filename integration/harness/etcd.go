package harness

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"strconv"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/seed-6593ebad/skywarden/internal/testca"
)

// EtcdOptions says what an etcd server is like. The zero value is etcd 3.7.3
// with RBAC enabled, which knows the user root alone.
type EtcdOptions struct {
	// Version is "" for the pinned one, or "3.6.5": the one with known holes.
	Version string
	// NoAuth leaves RBAC off. A client certificate is demanded all the same.
	NoAuth bool
	// Passwords makes a server that demands no client certificates and knows users
	// by their passwords: see SetPassword.
	Passwords bool
	// ServerCert issues what the server shows, for tests of certificates that
	// must be refused; nil is a valid one for 127.0.0.1 and localhost. Admin
	// accepts it whatever its dates and hosts.
	ServerCert func(testing.TB, *testca.CA) testca.Cert
	// Args are further arguments of the server.
	Args []string
}

// Etcd is a running etcd server of one member. A client proves who it is by
// the common name of its certificate, unless EtcdOptions.Passwords says
// otherwise.
type Etcd struct {
	*Server
	Address string     // 127.0.0.1:PORT, unchanged by Kill and Start
	CA      *testca.CA // issues the server's and the clients' certificates
	Admin   *clientv3.Client
}

// StartEtcd runs an etcd server until the test ends.
func StartEtcd(tb testing.TB, o EtcdOptions) *Etcd {
	tb.Helper()
	image := findEtcd(tb, o.Version)
	ca := testca.New(tb)
	serverCert := ca.Server(tb, loopback, "localhost")
	if o.ServerCert != nil {
		serverCert = o.ServerCert(tb, ca)
	}
	clientPort, peerPort := freePort(tb), freePort(tb)
	e := &Etcd{Address: net.JoinHostPort(loopback, strconv.Itoa(clientPort)), CA: ca}

	admin := clientv3.Config{
		Endpoints:   e.Endpoints(),
		TLS:         adminTLS(tb, ca, serverCert),
		Logger:      zap.NewNop(),
		DialTimeout: 5 * time.Second,
		// Without this gRPC waits up to two minutes before it looks whether a
		// restarted server is back.
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: 2 * time.Second,
		})},
	}
	e.openAdmin(tb, admin)

	clientURL := "https://" + e.Address
	peerURL := "http://" + net.JoinHostPort(loopback, strconv.Itoa(peerPort))
	e.Server = startServer(tb, spec{
		image: image,
		ports: []int{clientPort},
		files: map[string][]byte{
			"ca.pem":         ca.PEM(),
			"server.pem":     serverCert.CertPEM(),
			"server-key.pem": serverCert.KeyPEM(tb),
		},
		args: func(host, dir string) []string {
			args := []string{
				"--name=test",
				"--data-dir=" + dir + "/data",
				"--listen-client-urls=https://" + net.JoinHostPort(host, strconv.Itoa(clientPort)),
				"--advertise-client-urls=" + clientURL,
				"--listen-peer-urls=" + peerURL,
				"--initial-advertise-peer-urls=" + peerURL,
				"--initial-cluster=test=" + peerURL,
				"--cert-file=" + dir + "/server.pem",
				"--key-file=" + dir + "/server-key.pem",
				"--tls-min-version=TLS1.3",
				// The gateway would speak with the server's own certificate for everybody.
				"--enable-grpc-gateway=false",
				"--log-level=warn",
			}
			if !o.Passwords { // a server that trusts a CA demands a certificate of everybody
				args = append(args, "--trusted-ca-file="+dir+"/ca.pem", "--client-cert-auth")
			}
			return append(args, o.Args...)
		},
		ready: e.ready,
	})
	// After the server's cleanup is registered, so that it runs before it.
	tb.Cleanup(func() {
		if err := e.Admin.Close(); err != nil {
			tb.Errorf("harness: close the administrator's client: %v", err)
		}
	})
	switch {
	case o.NoAuth:
	case o.Passwords:
		admin.Username, admin.Password = "root", "root's password"
		e.SetPassword(tb, admin.Username, admin.Password)
		e.enableAuth(tb)
		if err := e.Admin.Close(); err != nil {
			tb.Fatalf("harness: close the administrator's first client: %v", err)
		}
		e.openAdmin(tb, admin)
	default:
		e.enableAuth(tb)
	}
	return e
}

func (e *Etcd) openAdmin(tb testing.TB, cfg clientv3.Config) {
	tb.Helper()
	var err error
	if e.Admin, err = clientv3.New(cfg); err != nil {
		tb.Fatalf("harness: open the administrator's client: %v", err)
	}
}

// Endpoints is the server's address as clients want it.
func (e *Etcd) Endpoints() []string { return []string{"https://" + e.Address} }

// ClientTLS is the configuration of a client whose user is commonName, with a
// certificate of its own.
func (e *Etcd) ClientTLS(tb testing.TB, commonName string) *tls.Config {
	tb.Helper()
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		RootCAs:      e.CA.Pool(),
		Certificates: []tls.Certificate{e.CA.Client(tb, commonName).TLS()},
	}
}

// ClientFiles are the paths of PEM files of one client.
type ClientFiles struct{ CA, Cert, Key string }

// ClientFiles writes a new certificate for the user commonName, its key (mode
// 0600) and the CA into a directory that lives as long as the test.
func (e *Etcd) ClientFiles(tb testing.TB, commonName string) ClientFiles {
	tb.Helper()
	return writeClientFiles(tb, e.CA, commonName)
}

func writeClientFiles(tb testing.TB, ca *testca.CA, commonName string) ClientFiles {
	tb.Helper()
	dir := tb.TempDir()
	cert, key := ca.Client(tb, commonName).WriteFiles(tb, dir, "client")
	return ClientFiles{CA: ca.WriteFile(tb, dir, "ca"), Cert: cert, Key: key}
}

// A Grant is one permission of a role: on one key, or on all keys that begin
// with a prefix.
type Grant struct {
	Key    string
	Prefix bool
	Access clientv3.PermissionType
}

// Read permits to read one key.
func Read(key string) Grant { return Grant{Key: key, Access: readOnly} }

// ReadWrite permits to read and to write one key.
func ReadWrite(key string) Grant { return Grant{Key: key, Access: readWrite} }

// ReadPrefix permits to read all keys that begin with prefix.
func ReadPrefix(prefix string) Grant { return Grant{Key: prefix, Prefix: true, Access: readOnly} }

// ReadWritePrefix permits to read and to write all keys that begin with prefix.
func ReadWritePrefix(prefix string) Grant {
	return Grant{Key: prefix, Prefix: true, Access: readWrite}
}

const (
	readOnly  = clientv3.PermissionType(clientv3.PermRead)
	readWrite = clientv3.PermissionType(clientv3.PermReadWrite)
)

func (g Grant) rangeEnd() string {
	if g.Prefix {
		return clientv3.GetPrefixRangeEnd(g.Key)
	}
	return ""
}

// SetRole adds grants to a role and makes the role if there is none.
func (e *Etcd) SetRole(tb testing.TB, role string, grants ...Grant) {
	tb.Helper()
	e.administer(tb, "set role "+role, func(ctx context.Context) error {
		roles, err := e.Admin.RoleList(ctx)
		if err != nil {
			return err
		}
		if !slices.Contains(roles.Roles, role) {
			if _, err := e.Admin.RoleAdd(ctx, role); err != nil {
				return err
			}
		}
		for _, grant := range grants {
			if _, err := e.Admin.RoleGrantPermission(ctx, role, grant.Key, grant.rangeEnd(), grant.Access); err != nil {
				return err
			}
		}
		return nil
	})
}

// RevokeGrants takes grants from a role.
func (e *Etcd) RevokeGrants(tb testing.TB, role string, grants ...Grant) {
	tb.Helper()
	e.administer(tb, "revoke grants of role "+role, func(ctx context.Context) error {
		for _, grant := range grants {
			if _, err := e.Admin.RoleRevokePermission(ctx, role, grant.Key, grant.rangeEnd()); err != nil {
				return err
			}
		}
		return nil
	})
}

// SetUser gives roles to a user and makes the user, without a password, if
// there is none.
func (e *Etcd) SetUser(tb testing.TB, user string, roles ...string) {
	tb.Helper()
	e.administer(tb, "set user "+user, func(ctx context.Context) error {
		users, err := e.Admin.UserList(ctx)
		if err != nil {
			return err
		}
		if !slices.Contains(users.Users, user) {
			if _, err := e.Admin.UserAddWithOptions(ctx, user, "", &clientv3.UserAddOptions{NoPassword: true}); err != nil {
				return err
			}
		}
		for _, role := range roles {
			if _, err := e.Admin.UserGrantRole(ctx, user, role); err != nil {
				return err
			}
		}
		return nil
	})
}

// SetPassword gives a password to a user, and makes the user if there is none.
// All tokens of the user end.
func (e *Etcd) SetPassword(tb testing.TB, user, password string) {
	tb.Helper()
	e.administer(tb, "set the password of user "+user, func(ctx context.Context) error {
		users, err := e.Admin.UserList(ctx)
		if err != nil {
			return err
		}
		if slices.Contains(users.Users, user) {
			_, err = e.Admin.UserChangePassword(ctx, user, password)
			return err
		}
		_, err = e.Admin.UserAdd(ctx, user, password)
		return err
	})
}

// RevokeRole takes a role from a user.
func (e *Etcd) RevokeRole(tb testing.TB, user, role string) {
	tb.Helper()
	e.administer(tb, "revoke role "+role+" of user "+user, func(ctx context.Context) error {
		_, err := e.Admin.UserRevokeRole(ctx, user, role)
		return err
	})
}

func (e *Etcd) enableAuth(tb testing.TB) {
	tb.Helper()
	e.SetUser(tb, "root", "root")
	e.administer(tb, "enable RBAC", func(ctx context.Context) error {
		_, err := e.Admin.AuthEnable(ctx)
		return err
	})
}

func (e *Etcd) administer(tb testing.TB, what string, act func(context.Context) error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), leverTimeout)
	defer cancel()
	if err := act(ctx); err != nil {
		tb.Fatalf("harness: %s: %v", what, err)
	}
}

// ready is a linearizable read: it needs a leader.
func (e *Etcd) ready(ctx context.Context) error {
	_, err := e.Admin.Get(ctx, "ready")
	return err
}

// adminTLS trusts exactly the server's certificate, whatever it says, so that
// a server with a bad one can still be administered.
func adminTLS(tb testing.TB, ca *testca.CA, server testca.Cert) *tls.Config {
	tb.Helper()
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		Certificates:       []tls.Certificate{ca.Client(tb, "root").TLS()},
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection demands more: the very certificate
		VerifyConnection: func(state tls.ConnectionState) error {
			if !state.PeerCertificates[0].Equal(server.Leaf) {
				return errors.New("the server shows another certificate than the test gave it")
			}
			return nil
		},
	}
}

func etcdImage(version, module, env string) Image {
	return Image{
		Name: "etcd", Version: version, Env: env,
		module: module, pkg: "go.etcd.io/etcd/server/v3", path: "/usr/local/bin/etcd",
	}
}

func findEtcd(tb testing.TB, version string) Image {
	tb.Helper()
	if version == "" {
		version = "3.7.3"
	}
	var known []string
	for _, image := range Images() {
		if image.Name == "etcd" && image.Version == version {
			return image
		}
		known = append(known, image.String())
	}
	tb.Fatalf("harness: there is no etcd %s, only %v", version, known)
	return Image{}
}
