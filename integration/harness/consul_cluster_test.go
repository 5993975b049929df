package harness_test

import (
	"testing"
	"time"

	"github.com/seed-6593ebad/skywarden/integration/harness"
)

func TestConsulClusterElectsANewLeader(t *testing.T) {
	start := time.Now()
	cluster := harness.StartConsulCluster(t, harness.ConsulOptions{})
	t.Logf("three voters %v after the beginning", time.Since(start))
	cluster.Policy(t, "all", `key_prefix "" { policy = "write" }`)
	token := cluster.Token(t, "all")
	for _, server := range cluster.Servers {
		mustWrite(t, server.Client(t, token), "k", server.Address)
	}

	killed := cluster.Leader(t)
	mustWrite(t, killed.Admin, "k", "before")
	killed.Kill(t)
	start = time.Now()
	leader := cluster.Leader(t)
	t.Logf("a new leader %v after the kill", time.Since(start))
	if leader == killed {
		t.Fatal("the killed server leads")
	}
	if got := mustRead(t, cluster.Admin, "k"); got != "before" {
		t.Errorf("after the leader was killed the key says %q, want before", got)
	}
	mustWrite(t, cluster.Admin, "k", "meanwhile")
	cluster.Token(t, "all") // does not wait for the killed server
	start = time.Now()
	killed.Start(t)
	cluster.AwaitVoters(t)
	t.Logf("three voters again %v after the start", time.Since(start))
	if got := mustRead(t, killed.Client(t, token), "k"); got != "meanwhile" {
		t.Errorf("the server that was killed says %q, want meanwhile", got)
	}

	paused := cluster.Leader(t)
	paused.Pause(t)
	start = time.Now()
	leader = cluster.Leader(t)
	t.Logf("a new leader %v after the pause", time.Since(start))
	if leader == paused {
		t.Fatal("the paused server leads")
	}
	paused.Unpause(t)
	cluster.AwaitVoters(t)
	if got := len(cluster.Followers(t)); got != 2 {
		t.Errorf("%d followers, want 2", got)
	}
}

func TestConsulClusterComesBackFromNothing(t *testing.T) {
	cluster := harness.StartConsulCluster(t, harness.ConsulOptions{})
	mustWrite(t, cluster.Admin, "k", "v")
	for _, server := range cluster.Servers {
		server.Kill(t)
	}
	if _, err := read(t, cluster.Admin, "k"); err == nil {
		t.Error("a cluster without servers answers")
	}
	for _, server := range cluster.Servers {
		server.Start(t)
	}
	cluster.AwaitVoters(t)
	if got := mustRead(t, cluster.Admin, "k"); got != "v" {
		t.Errorf("after all servers were killed the key says %q, want v", got)
	}
}
