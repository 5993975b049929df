package etcd_test

import (
	"context"
	"strconv"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/seed-6593ebad/skywarden/backends/etcd"
	"github.com/seed-6593ebad/skywarden/integration/harness"
	"github.com/seed-6593ebad/skywarden/naming"
)

func inspect(t *testing.T, b *etcd.Backend) map[string]naming.Finding {
	t.Helper()
	findings, err := b.Inspect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]naming.Finding{}
	for _, f := range findings {
		t.Logf("%s: %s: %s (%s)", f.Level, f.Check, f.Detail, f.Do)
		if (f.Do == "") != (f.Level == naming.LevelOK) {
			t.Errorf("what to do about %s (%s): %q", f.Check, f.Level, f.Do)
		}
		all[f.Check] = f
	}
	return all
}

func TestInspect(t *testing.T) {
	server := start(t)
	alice := openAs(t, server, "alice")
	found := inspect(t, alice)
	for check, want := range map[string]naming.Level{
		"access control": naming.LevelOK, "server version": naming.LevelOK, "leader": naming.LevelOK, "space": naming.LevelOK,
		"client certificate": naming.LevelOK, "gateway": naming.LevelOK, "clock": naming.LevelOK,
		"compaction": naming.LevelWarn, // nothing to be seen on a new server
	} {
		if got := found[check].Level; got != want {
			t.Errorf("%s: %s, want %s", check, got, want)
		}
	}
	if f := inspect(t, openAs(t, server, "carol"))["compaction"]; f.Level != naming.LevelWarn || !strings.Contains(f.Detail, "cannot be seen") {
		t.Errorf("compaction, for somebody who may not read: %+v", f)
	}
	mustDo(t, server, func(c *clientv3.Client) error {
		resp, err := c.Put(t.Context(), "/x", "1")
		if err == nil {
			_, err = c.Compact(t.Context(), resp.Header.Revision)
		}
		return err
	})
	if f := inspect(t, alice)["compaction"]; f.Level != naming.LevelOK {
		t.Errorf("compaction, after one: %+v", f)
	}
}

func TestInspectEnds(t *testing.T) {
	alice := openAs(t, start(t), "alice")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := alice.Inspect(ctx)
	mustBe(t, err, context.Canceled)
	if err := alice.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = alice.Inspect(t.Context())
	mustBe(t, err, naming.ErrClosed)
}

// What is open on a server is told.
func TestInspectOpenServer(t *testing.T) {
	server := harness.StartEtcd(t, harness.EtcdOptions{Args: []string{
		"--enable-grpc-gateway=true", "--quota-backend-bytes=" + strconv.Itoa(32<<20),
	}})
	users(t, server)
	found := inspect(t, openAs(t, server, "alice"))
	if got := found["gateway"].Level; got != naming.LevelWarn {
		t.Errorf("gateway: %s, want warn", got)
	}
	if f := found["space"]; !strings.Contains(f.Detail, "33.6 MB") {
		t.Errorf("space: %+v", f)
	}

	wide := harness.StartEtcd(t, harness.EtcdOptions{NoAuth: true, Args: []string{
		"--enable-grpc-gateway=true", "--client-cert-auth=false", "--trusted-ca-file=", "--listen-metrics-urls=http://127.0.0.1:0",
	}})
	cfg := config(t, wide, "alice")
	cfg.InsecureDevelopmentOnly = true
	found = inspect(t, open(t, cfg))
	for check, want := range map[string]naming.Level{"gateway": naming.LevelFail, "client certificate": naming.LevelWarn, "access control": naming.LevelFail} {
		if got := found[check].Level; got != want {
			t.Errorf("%s: %s, want %s", check, got, want)
		}
	}
	if f := found["client certificate"]; !strings.Contains(f.Detail, "status 200") {
		t.Errorf("the metrics are not on the clients' port: %+v", f)
	}
}

func TestInspectAlarmAndOutage(t *testing.T) {
	server := start(t)
	alice := openAs(t, server, "alice")
	mustDo(t, server, func(c *clientv3.Client) error {
		_, err := pb.NewMaintenanceClient(c.ActiveConnection()).Alarm(t.Context(), &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, Alarm: pb.AlarmType_NOSPACE})
		return err
	})
	if f := inspect(t, alice)["space"]; f.Level != naming.LevelFail || !strings.Contains(f.Detail, "NOSPACE") {
		t.Errorf("space, with the alarm: %+v", f)
	}
	server.Pause(t)
	found := inspect(t, alice)
	if f := found["member"]; f.Level != naming.LevelFail {
		t.Errorf("a member that hangs: %+v", f)
	}
	if f := found["access control"]; f.Level != naming.LevelWarn {
		t.Errorf("access control of a server that hangs: %+v", f)
	}
	// Where another member does the work it is no failure.
	other := harness.NewProxy(t, server.Address)
	other.Cut()
	server.Unpause(t)
	cfg := config(t, server, "alice")
	cfg.Endpoints = append(cfg.Endpoints, "https://"+other.Address())
	if f := inspect(t, open(t, cfg))["member"]; f.Level != naming.LevelWarn || !strings.Contains(f.Detail, other.Address()) {
		t.Errorf("one of two endpoints is away: %+v", f)
	}
}
