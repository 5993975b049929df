// Package harness brings up the real servers that the integration tests run
// against, and gives the tests levers to break them.
//
// It is for tests alone. It does not know Skywarden's backends: it hands out
// addresses, certificates and an administrator's client.
//
// A package of tests begins with
//
//	func TestMain(m *testing.M) { harness.Main(m) }
//
// and a test says what it needs:
//
//	etcd := harness.StartEtcd(t, harness.EtcdOptions{})
//	etcd.SetRole(t, "own-lobby", harness.ReadWrite("/skywarden/names/game/lobby"))
//	etcd.SetRole(t, "names-read", harness.ReadPrefix("/skywarden/names/"))
//	etcd.SetUser(t, "alice", "own-lobby", "names-read")
//
//	cfg := clientv3.Config{Endpoints: etcd.Endpoints(), TLS: etcd.ClientTLS(t, "alice")}
//
//	consul := harness.StartConsul(t, harness.ConsulOptions{})
//	consul.Node(t, "alice")
//	consul.Policy(t, "alice", `session "alice" { policy = "write" }`)
//	token := consul.Token(t, "alice") // for consul.Addresses(), trusting consul.CA
//
//	cluster := harness.StartConsulCluster(t, harness.ConsulOptions{})
//	cluster.Leader(t).Kill(t)
//	cluster.AwaitVoters(t) // before the next fault, once it was started again
//
//	etcd.Pause(t)   // hangs, as by SIGSTOP
//	etcd.Unpause(t)
//	etcd.Kill(t)    // as by SIGKILL
//	etcd.Start(t)   // same port, same data
//
//	proxy := harness.NewProxy(t, etcd.Address) // give proxy.Address() to the client
//	proxy.BlackHole()
//	proxy.Heal()
//
//	recorder := harness.NewHTTPRecorder(t, consul.CA, consul.Address) // give recorder.URL() to the client
//	recorder.DropResponse(func(r *http.Request) bool { return r.Method == http.MethodPut })
//	for _, request := range recorder.Requests() { … request.Token … }
//
// Everything is removed when the test ends, also when it fails; then the end
// of the server's log is printed.
//
// # Where the servers come from
//
// With a Docker engine each server is a container, and its image is the first
// of: the one that an environment variable names (SKYWARDEN_ETCD_IMAGE), a
// local image of the pinned tag, an image built from the pinned Go module
// below integration/images. Without an engine the same pinned program runs as
// a child process, and Main says so loudly. One line tells which it was.
//
//	SKYWARDEN_REQUIRE_CONTAINERS=1  a missing engine is a failure (CI)
//	SKYWARDEN_FORCE_PROCESSES=1     child processes even if there is an engine
//	SKYWARDEN_ETCD_IMAGE            the image for etcd 3.7.3
//	SKYWARDEN_ETCD_3_6_5_IMAGE      the image for etcd 3.6.5
//	SKYWARDEN_CONSUL_IMAGE          the image for Consul 1.20.1
//
// # Adding a server
//
// A new kind of server is a line in [Images], a module below
// integration/images, and a file like etcd.go that fills a spec. Containers
// and processes are dealt with in container.go and process.go and know
// nothing about the servers in them.
package harness
