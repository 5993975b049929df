package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
)

// ConsulCluster is three Consul servers. Admin goes to the first one that
// answers; whoever wants a certain server takes its own Admin or Client.
//
// Start of one of its servers returns as soon as that answers at all, with or
// without a leader, so that a cluster which has lost all of them can be
// brought up again. AwaitVoters waits for the rest.
type ConsulCluster struct {
	*ConsulAccess
	Servers []*Consul
}

// StartConsulCluster runs three Consul servers until the test ends. When it
// returns there is a leader and all are voters.
//
// Autopilot does not remove a server that was killed: it is a voter again as
// soon as it has caught up, and a cluster of three never becomes one of two.
func StartConsulCluster(tb testing.TB, o ConsulOptions) *ConsulCluster {
	tb.Helper()
	dc := newDatacentre(tb, o)
	var members []consulMember
	for i, peers := range newPeerHosts(tb, 3) {
		members = append(members, dc.member(tb, fmt.Sprintf("server-%d", i+1), peers))
	}
	cluster := &ConsulCluster{ConsulAccess: dc.access(tb, members...)}
	for _, member := range members {
		access := dc.access(tb, member)
		cluster.Servers = append(cluster.Servers, &Consul{
			Server:       startServer(tb, dc.spec(tb, member, members, access.answers)),
			ConsulAccess: access,
			Address:      member.address(),
			peerAddress:  member.peerAddress(),
		})
	}
	cluster.AwaitVoters(tb)
	return cluster
}

// AwaitVoters waits until every server is a healthy voter and reads through
// the leader. Between two faults it must be called, or the second one may cost
// the majority.
func (c *ConsulCluster) AwaitVoters(tb testing.TB) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	err := poll(ctx, func(try context.Context) (bool, error) {
		for _, server := range c.Servers {
			if err := server.consistentRead(try); err != nil {
				return false, err
			}
		}
		health, err := c.Admin.Operator().AutopilotServerHealth((&api.QueryOptions{}).WithContext(try))
		if err != nil {
			return false, err
		}
		for _, server := range health.Servers {
			if !server.Healthy || !server.Voter {
				return false, fmt.Errorf("%s: healthy %t, voter %t", server.Name, server.Healthy, server.Voter)
			}
		}
		if got := len(health.Servers); got != len(c.Servers) {
			return false, fmt.Errorf("autopilot knows %d servers of %d", got, len(c.Servers))
		}
		return true, nil
	})
	if err != nil {
		tb.Fatalf("harness: not every server became a voter: %v", err)
	}
}

// Leader waits until a server leads that a majority confirms, and returns it.
func (c *ConsulCluster) Leader(tb testing.TB) *Consul {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), leverTimeout)
	defer cancel()
	var leader *Consul
	err := poll(ctx, func(context.Context) (bool, error) {
		var problems []string
		for _, server := range c.Servers {
			// Each its own time: one that is paused must not use up the others'.
			try, cancel := context.WithTimeout(ctx, time.Second)
			err := server.leads(try)
			cancel()
			if err == nil {
				leader = server
				return true, nil
			}
			problems = append(problems, err.Error())
		}
		return false, fmt.Errorf("no server leads: %s", strings.Join(problems, "; "))
	})
	if err != nil {
		tb.Fatalf("harness: %v", err)
	}
	return leader
}

// Followers are the servers that do not lead, whatever their state.
func (c *ConsulCluster) Followers(tb testing.TB) []*Consul {
	tb.Helper()
	leader := c.Leader(tb)
	return slices.DeleteFunc(slices.Clone(c.Servers), func(server *Consul) bool { return server == leader })
}

// leads asks the server for whom it takes the leader; one that was paused may
// be wrong about itself, so a majority has to confirm it.
func (c *Consul) leads(ctx context.Context) error {
	leader, err := c.Admin.Status().LeaderWithQueryOptions((&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return err
	}
	if leader != c.peerAddress {
		return fmt.Errorf("%s takes %q for the leader", c.Address, leader)
	}
	return c.consistentRead(ctx)
}

// answers fails if the server does not answer at all.
func (a *ConsulAccess) answers(ctx context.Context) error {
	_, err := a.Admin.Status().LeaderWithQueryOptions((&api.QueryOptions{}).WithContext(ctx))
	return err
}

// anyServer sends each request to the first server that answers and knows a
// leader: an administrator's client that survives a failover. Until the
// survivors of a leader have noticed that it is gone (Leader waits for it),
// a request may hang.
type anyServer struct {
	transport http.RoundTripper
	addresses []string
}

// RoundTrip implements http.RoundTripper.
func (s anyServer) RoundTrip(request *http.Request) (*http.Response, error) {
	routed := request.Clone(request.Context())
	var problems []error
	for _, address := range s.addresses {
		if err := s.knowsLeader(request.Context(), address); err != nil {
			problems = append(problems, err)
			continue
		}
		routed.URL.Host = address
		return s.transport.RoundTrip(routed)
	}
	return nil, errors.Join(problems...)
}

func (s anyServer) knowsLeader(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	question, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/v1/status/leader", http.NoBody)
	if err != nil {
		return err
	}
	answer, err := s.transport.RoundTrip(question)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK || string(text) == `""` {
		return fmt.Errorf("%s knows no leader: %s %s", address, answer.Status, text)
	}
	return nil
}
