package harness

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/consul/api"

	"github.com/seed-6593ebad/skywarden/internal/testca"
)

// ConsulOptions says what a Consul server is like. The zero value is Consul
// 1.20.1 with ACLs (default deny), HTTPS alone, /v1/txn blocked, and sessions
// that may be as short as a second.
type ConsulOptions struct {
	// SessionTTLMin is the shortest TTL of a session; 0 is one second. Consul's
	// own is ten seconds.
	SessionTTLMin time.Duration
	// OpenTxn leaves /v1/txn open, as Consul does by itself.
	OpenTxn bool
	// ClientCerts demands a client certificate of CA on HTTPS, beside the token.
	ClientCerts bool
	// ServerCert issues what the server shows on HTTPS, for tests of
	// certificates that must be refused; nil is a valid one for 127.0.0.1 and
	// localhost. Admin accepts it whatever its dates and hosts.
	ServerCert func(testing.TB, *testca.CA) testca.Cert
	// Config is laid over the configuration of every server, as Consul merges
	// files: {"acl": {"default_policy": "allow"}}.
	Config map[string]any
}

// Consul is a running Consul server: alone, or one of a cluster.
type Consul struct {
	*Server
	*ConsulAccess
	Address string // 127.0.0.1:PORT of HTTPS, unchanged by Kill and Start

	peerAddress string // what /v1/status/leader calls it
}

// StartConsul runs a Consul server until the test ends. When it returns there
// is a leader.
func StartConsul(tb testing.TB, o ConsulOptions) *Consul {
	tb.Helper()
	dc := newDatacentre(tb, o)
	member := dc.member(tb, "server-1", peerHost{ip: loopback})
	access := dc.access(tb, member)
	return &Consul{
		Server:       startServer(tb, dc.spec(tb, member, []consulMember{member}, access.consistentRead)),
		ConsulAccess: access,
		Address:      member.address(),
		peerAddress:  member.peerAddress(),
	}
}

// ConsulAccess is what an administrator and the clients of one server, or of a
// cluster, need: where it is, whom to trust, and who may do what.
type ConsulAccess struct {
	CA              *testca.CA // issues the server's certificates and, with ClientCerts, the clients'
	Admin           *api.Client
	ManagementToken string // may do everything; Admin has it

	addresses  []string
	serverCert testca.Cert
	clientCert bool
}

// Addresses is https://127.0.0.1:PORT of each server.
func (a *ConsulAccess) Addresses() []string {
	var urls []string
	for _, address := range a.addresses {
		urls = append(urls, "https://"+address)
	}
	return urls
}

// ClientTLS is the configuration of a client. With ClientCerts it has a
// certificate of its own, otherwise none.
func (a *ConsulAccess) ClientTLS(tb testing.TB) *tls.Config {
	tb.Helper()
	config := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: a.CA.Pool()}
	if a.clientCert {
		config.Certificates = []tls.Certificate{a.CA.Client(tb, "client").TLS()}
	}
	return config
}

// CAFile writes the CA in PEM into a directory that lives as long as the test.
func (a *ConsulAccess) CAFile(tb testing.TB) string {
	tb.Helper()
	return a.CA.WriteFile(tb, tb.TempDir(), "ca")
}

// ClientFiles writes a new client certificate for commonName, its key (mode
// 0600) and the CA into a directory that lives as long as the test.
func (a *ConsulAccess) ClientFiles(tb testing.TB, commonName string) ClientFiles {
	tb.Helper()
	return writeClientFiles(tb, a.CA, commonName)
}

// Client is a client with a token; of a cluster it knows the first server
// alone. It closes its connections when the test ends.
func (a *ConsulAccess) Client(tb testing.TB, token string) *api.Client {
	tb.Helper()
	return newConsulClient(tb, a.addresses[0], token, newTransport(tb, a.ClientTLS(tb)))
}

// Policy makes a policy of rules in HCL, or gives new rules to the one of that
// name.
func (a *ConsulAccess) Policy(tb testing.TB, name, rules string) {
	tb.Helper()
	a.administer(tb, "set policy "+name, func(query *api.QueryOptions, write *api.WriteOptions) error {
		policy, _, err := a.Admin.ACL().PolicyReadByName(name, query)
		if err != nil {
			return err
		}
		if policy == nil {
			_, _, err = a.Admin.ACL().PolicyCreate(&api.ACLPolicy{Name: name, Rules: rules}, write)
			return err
		}
		policy.Rules = rules
		_, _, err = a.Admin.ACL().PolicyUpdate(policy, write)
		return err
	})
}

// Token makes a token with these policies, which must exist, and returns its
// secret. Every server that answers knows the token by then.
func (a *ConsulAccess) Token(tb testing.TB, policies ...string) string {
	tb.Helper()
	token := &api.ACLToken{Description: tb.Name()}
	for _, policy := range policies {
		token.Policies = append(token.Policies, &api.ACLLink{Name: policy})
	}
	a.administer(tb, "make a token", func(_ *api.QueryOptions, write *api.WriteOptions) (err error) {
		token, _, err = a.Admin.ACL().TokenCreate(token, write)
		return err
	})
	for _, address := range a.addresses {
		a.awaitToken(tb, address, token.SecretID)
	}
	return token.SecretID
}

// awaitToken waits until a server has heard of a token: it reaches a follower
// a moment after the leader has answered. A server that does not answer is
// not waited for.
func (a *ConsulAccess) awaitToken(tb testing.TB, address, secret string) {
	tb.Helper()
	client := newConsulClient(tb, address, secret, newTransport(tb, adminTLS(tb, a.CA, a.serverCert)))
	ctx, cancel := context.WithTimeout(context.Background(), leverTimeout)
	defer cancel()
	err := poll(ctx, func(try context.Context) (bool, error) {
		_, _, err := client.ACL().TokenReadSelf((&api.QueryOptions{AllowStale: true}).WithContext(try))
		if _, refused := errors.AsType[api.StatusError](err); refused {
			return false, err
		}
		return true, nil
	})
	if err != nil {
		tb.Fatalf("harness: %s does not know a new token: %v", address, err)
	}
}

// RevokeToken deletes a token by its secret.
func (a *ConsulAccess) RevokeToken(tb testing.TB, secret string) {
	tb.Helper()
	a.administer(tb, "revoke a token", func(query *api.QueryOptions, write *api.WriteOptions) error {
		self := *query
		self.Token = secret
		token, _, err := a.Admin.ACL().TokenReadSelf(&self)
		if err != nil {
			return err
		}
		_, err = a.Admin.ACL().TokenDelete(token.AccessorID, write)
		return err
	})
}

// Node registers a virtual node in the catalog: sessions of one principal hang
// on it, and the right to make them goes by its name.
func (a *ConsulAccess) Node(tb testing.TB, name string) {
	tb.Helper()
	a.administer(tb, "register node "+name, func(_ *api.QueryOptions, write *api.WriteOptions) error {
		_, err := a.Admin.Catalog().Register(&api.CatalogRegistration{
			Node: name, Address: loopback, NodeMeta: map[string]string{"external-node": "true"},
		}, write)
		return err
	})
}

func (a *ConsulAccess) administer(tb testing.TB, what string, act func(*api.QueryOptions, *api.WriteOptions) error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), leverTimeout)
	defer cancel()
	query := (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx)
	if err := act(query, (&api.WriteOptions{}).WithContext(ctx)); err != nil {
		tb.Fatalf("harness: %s: %v", what, err)
	}
}

// datacentre is what its servers have in common.
type datacentre struct {
	options         ConsulOptions
	ca              *testca.CA  // of HTTPS
	peerCA          *testca.CA  // of the servers among themselves: whoever has a client's certificate is no server
	serverCert      testca.Cert // all servers show the same: a client tells them by their ports
	managementToken string
}

// consulMember is one server of a datacentre and where it listens.
type consulMember struct {
	name                string
	peers               peerHost
	https, server, serf int
}

func newDatacentre(tb testing.TB, o ConsulOptions) *datacentre {
	tb.Helper()
	dc := &datacentre{options: o, ca: testca.New(tb), peerCA: testca.New(tb), managementToken: uuid.NewString()}
	if o.ServerCert != nil {
		dc.serverCert = o.ServerCert(tb, dc.ca)
	} else {
		dc.serverCert = dc.ca.Server(tb, loopback, "localhost")
	}
	return dc
}

func (dc *datacentre) member(tb testing.TB, name string, peers peerHost) consulMember {
	tb.Helper()
	return consulMember{name: name, peers: peers, https: freePort(tb), server: freePort(tb), serf: freePort(tb)}
}

func (m consulMember) address() string { return net.JoinHostPort(loopback, strconv.Itoa(m.https)) }

func (m consulMember) peerAddress() string {
	return net.JoinHostPort(m.peers.ip, strconv.Itoa(m.server))
}

func (dc *datacentre) access(tb testing.TB, members ...consulMember) *ConsulAccess {
	tb.Helper()
	a := &ConsulAccess{CA: dc.ca, ManagementToken: dc.managementToken, serverCert: dc.serverCert, clientCert: dc.options.ClientCerts}
	for _, member := range members {
		a.addresses = append(a.addresses, member.address())
	}
	var transport http.RoundTripper = newTransport(tb, adminTLS(tb, dc.ca, dc.serverCert))
	if len(members) > 1 {
		transport = anyServer{transport, a.addresses}
	}
	a.Admin = newConsulClient(tb, a.addresses[0], dc.managementToken, transport)
	return a
}

func (dc *datacentre) spec(tb testing.TB, m consulMember, members []consulMember, ready func(context.Context) error) spec {
	tb.Helper()
	// The name that verify_server_hostname looks for.
	peerCert := dc.peerCA.Server(tb, "server.dc1.consul", "localhost", loopback)
	files := map[string][]byte{
		"consul.json":     encodeJSON(tb, dc.config(m, members)),
		"ca.pem":          dc.ca.PEM(),
		"server.pem":      dc.serverCert.CertPEM(),
		"server-key.pem":  dc.serverCert.KeyPEM(tb),
		"peer-ca.pem":     dc.peerCA.PEM(),
		"peer.pem":        peerCert.CertPEM(),
		"peer-key.pem":    peerCert.KeyPEM(tb),
		"more-of-it.json": encodeJSON(tb, dc.options.Config),
	}
	return spec{
		image: consulImage,
		ports: []int{m.https},
		peers: m.peers,
		files: files,
		args: func(host, dir string) []string {
			return []string{
				"agent", "-config-file=" + dir + "/consul.json", "-config-file=" + dir + "/more-of-it.json",
				"-data-dir=" + dir + "/data", "-client=" + host,
			}
		},
		ready: ready,
	}
}

func (dc *datacentre) config(m consulMember, members []consulMember) map[string]any {
	ttlMin := dc.options.SessionTTLMin
	if ttlMin == 0 {
		ttlMin = time.Second
	}
	blocked := []string{"/v1/txn"}
	if dc.options.OpenTxn {
		blocked = []string{}
	}
	join := []string{}
	for _, other := range members {
		if other != m {
			join = append(join, net.JoinHostPort(other.peers.ip, strconv.Itoa(other.serf)))
		}
	}
	return map[string]any{
		"server":           true,
		"datacenter":       "dc1",
		"node_name":        m.name,
		"bootstrap_expect": len(members),
		"bind_addr":        m.peers.ip,
		"retry_join":       join,
		"retry_interval":   "500ms",
		"ports": map[string]any{
			"https": m.https, "server": m.server, "serf_lan": m.serf,
			"http": -1, "dns": -1, "grpc": -1, "grpc_tls": -1, "serf_wan": -1,
		},
		"acl": map[string]any{
			"enabled": true, "default_policy": "deny",
			"tokens": map[string]any{"initial_management": dc.managementToken, "agent": dc.managementToken},
		},
		"tls": map[string]any{
			"defaults": map[string]any{"tls_min_version": "TLSv1_3"},
			"https": map[string]any{
				"ca_file": "ca.pem", "cert_file": "server.pem", "key_file": "server-key.pem",
				"verify_incoming": dc.options.ClientCerts,
			},
			"internal_rpc": map[string]any{
				"ca_file": "peer-ca.pem", "cert_file": "peer.pem", "key_file": "peer-key.pem",
				"verify_incoming": true, "verify_outgoing": true, "verify_server_hostname": true,
			},
		},
		"http_config":     map[string]any{"block_endpoints": blocked},
		"session_ttl_min": ttlMin.String(),
		// The quickest elections that Consul can be told of.
		"performance": map[string]any{"raft_multiplier": 1, "leave_drain_time": "0s"},
		"autopilot": map[string]any{
			// A killed server stays a voter, so that it is one again as soon as it is back.
			"cleanup_dead_servers":      false,
			"server_stabilization_time": "1s",
			// More than the 200 ms of production: two cores shared with other tests.
			"last_contact_threshold": "1s",
		},
		"connect":              map[string]any{"enabled": false},
		"peering":              map[string]any{"enabled": false},
		"ui_config":            map[string]any{"enabled": false},
		"disable_update_check": true,
		"log_level":            "warn",
	}
}

func encodeJSON(tb testing.TB, config map[string]any) []byte {
	tb.Helper()
	if config == nil {
		config = map[string]any{}
	}
	text, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		tb.Fatalf("harness: %v", err)
	}
	return text
}

// consistentRead fails without a leader that is confirmed by a majority.
func (a *ConsulAccess) consistentRead(ctx context.Context) error {
	_, _, err := a.Admin.KV().Get("ready", (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx))
	return err
}

func newConsulClient(tb testing.TB, address, token string, transport http.RoundTripper) *api.Client {
	tb.Helper()
	client, err := api.NewClient(&api.Config{
		Address: address, Scheme: "https", Token: token, HttpClient: &http.Client{Transport: transport},
	})
	if err != nil {
		tb.Fatalf("harness: make a client of Consul: %v", err)
	}
	return client
}

// newTransport speaks HTTP/2 where the server does, and closes its connections
// when the test ends.
func newTransport(tb testing.TB, config *tls.Config) *http.Transport {
	tb.Helper()
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	tb.Cleanup(transport.CloseIdleConnections)
	return transport
}

var consulImage = Image{
	Name: "consul", Version: "1.20.1", Env: "SKYWARDEN_CONSUL_IMAGE",
	module: "consul", pkg: "github.com/hashicorp/consul", path: "/bin/consul",
}
