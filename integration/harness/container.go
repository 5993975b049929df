package harness

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
)

// Label is on every container and network of the tests.
const Label = "skywarden.test"

// containerDir holds a server's files and data inside its container. The
// container keeps it when it is killed and started again.
const containerDir = "/skywarden"

// container runs a server in a Docker container.
type container struct {
	client client.APIClient
	tc     testcontainers.Container
}

// newContainer creates a container and does not start it. A container is
// returned even with an error, if there is one to remove.
func newContainer(ctx context.Context, s spec, ref string) (*container, error) {
	engine, err := engine()
	if err != nil {
		return nil, err
	}
	request := testcontainers.ContainerRequest{
		Image: ref,
		// Explicit, so that an official image (with an entrypoint of its own,
		// or none) runs the same.
		Entrypoint: []string{s.image.path},
		Cmd:        s.args("0.0.0.0", containerDir),
		Labels:     map[string]string{Label: "true"},
	}
	bindings := network.PortMap{}
	for _, number := range s.ports {
		port, err := network.ParsePort(fmt.Sprintf("%d/tcp", number))
		if err != nil {
			return nil, err
		}
		request.ExposedPorts = append(request.ExposedPorts, port.String())
		// Fixed, because a published dynamic port changes at every restart;
		// on loopback, because nobody else should reach a test's server.
		bindings[port] = []network.PortBinding{{HostIP: netip.MustParseAddr(loopback), HostPort: strconv.Itoa(number)}}
	}
	// So that a configuration file names the files beside it the same way in a
	// container and in a process.
	request.ConfigModifier = func(config *apicontainer.Config) { config.WorkingDir = containerDir }
	request.HostConfigModifier = func(host *apicontainer.HostConfig) {
		host.PortBindings = bindings
		host.Tmpfs = map[string]string{"/tmp": ""} // Consul makes snapshots there; an image from scratch has none
	}
	if s.peers.network != "" {
		address, err := netip.ParseAddr(s.peers.ip)
		if err != nil {
			return nil, err
		}
		request.Networks = []string{s.peers.network}
		request.EndpointSettingsModifier = func(endpoints map[string]*network.EndpointSettings) {
			endpoints[s.peers.network].IPAMConfig = &network.EndpointIPAMConfig{IPv4Address: address}
		}
	}
	for name, content := range s.files {
		request.Files = append(request.Files, testcontainers.ContainerFile{
			Reader: bytes.NewReader(content), ContainerFilePath: path.Join(containerDir, name), FileMode: 0o600,
		})
	}
	created, err := engine.CreateContainer(ctx, request)
	if created == nil {
		return nil, err
	}
	return &container{client: engine.Client(), tc: created}, err
}

func (c *container) id() string { return c.tc.GetContainerID() }

func (c *container) start(ctx context.Context) error {
	_, err := c.client.ContainerStart(ctx, c.id(), client.ContainerStartOptions{})
	return err
}

func (c *container) pause(ctx context.Context) error {
	_, err := c.client.ContainerPause(ctx, c.id(), client.ContainerPauseOptions{})
	return err
}

func (c *container) unpause(ctx context.Context) error {
	_, err := c.client.ContainerUnpause(ctx, c.id(), client.ContainerUnpauseOptions{})
	return err
}

func (c *container) kill(ctx context.Context) error {
	// Asked for before the kill, so that an early end is not missed.
	ended := c.client.ContainerWait(ctx, c.id(), client.ContainerWaitOptions{Condition: "not-running"})
	if _, err := c.client.ContainerKill(ctx, c.id(), client.ContainerKillOptions{Signal: "SIGKILL"}); err != nil {
		return err
	}
	select {
	case <-ended.Result:
		return nil
	case err := <-ended.Error:
		return err
	}
}

func (c *container) stop(ctx context.Context) error {
	grace := int(10 * time.Second / time.Second)
	_, err := c.client.ContainerStop(ctx, c.id(), client.ContainerStopOptions{Timeout: &grace})
	return err
}

func (c *container) running(ctx context.Context) (bool, error) {
	result, err := c.client.ContainerInspect(ctx, c.id(), client.ContainerInspectOptions{})
	if err != nil {
		return false, err
	}
	return result.Container.State != nil && result.Container.State.Running, nil
}

func (c *container) log(ctx context.Context) (string, error) {
	stream, err := c.client.ContainerLogs(ctx, c.id(), client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true})
	if err != nil {
		return "", err
	}
	defer stream.Close()
	var text strings.Builder
	_, err = stdcopy.StdCopy(&text, &text, stream)
	return text.String(), err
}

func (c *container) remove(ctx context.Context) error {
	_, err := c.client.ContainerRemove(ctx, c.id(), client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	return err
}

// newPeerHosts makes room for the servers of a cluster, three at most: with
// containers a network that lives as long as the test, with an address for
// each that stays when a server is killed and started again.
func newPeerHosts(tb testing.TB, count int) []peerHost {
	tb.Helper()
	mode, err := CurrentMode()
	if err != nil {
		tb.Fatalf("harness: %v", err)
	}
	hosts := make([]peerHost, count)
	if !mode.Containers {
		for i := range hosts {
			hosts[i].ip = loopback
		}
		return hosts
	}
	name, subnet := newNetwork(tb)
	address := subnet.Addr().Next() // the gateway's
	for i := range hosts {
		address = address.Next()
		hosts[i] = peerHost{network: name, ip: address.String()}
	}
	return hosts
}

// newNetwork makes a network with a subnet of six addresses, because Docker
// fixes addresses only in a subnet that it was told. Nobody knows which are
// free: it tries.
func newNetwork(tb testing.TB) (name string, subnet netip.Prefix) {
	tb.Helper()
	engine, err := engine()
	if err != nil {
		tb.Fatalf("harness: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), leverTimeout)
	defer cancel()
	for range 20 {
		start := netip.AddrFrom4([4]byte{10, byte(200 + rand.IntN(50)), byte(rand.IntN(256)), byte(8 * rand.IntN(32))})
		name, subnet = "skywarden-test-"+start.String(), netip.PrefixFrom(start, 29)
		_, err = engine.Client().NetworkCreate(ctx, name, client.NetworkCreateOptions{
			Driver: "bridge",
			IPAM:   &network.IPAM{Config: []network.IPAMConfig{{Subnet: subnet}}},
			Labels: map[string]string{Label: "true"},
		})
		if err == nil {
			tb.Cleanup(func() { removeNetwork(tb, name) })
			return name, subnet
		}
	}
	tb.Fatalf("harness: make a network for a cluster, 20 tries: %v", err)
	return "", netip.Prefix{}
}

func removeNetwork(tb testing.TB, name string) {
	tb.Helper()
	engine, err := engine()
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), leverTimeout)
		defer cancel()
		_, err = engine.Client().NetworkRemove(ctx, name, client.NetworkRemoveOptions{})
	}
	if err != nil {
		tb.Errorf("harness: the network %s is left over: %v", name, err)
	}
}
