package configs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/seed-6593ebad/skywarden/internal/testca"
)

// The configuration in docs/kubernetes.md, with the environment and the files that
// the pod there gives it.
func TestKubernetesPage(t *testing.T) {
	page, err := os.ReadFile("../docs/kubernetes.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(page), "```yaml\n")
	if len(blocks) != 3 {
		t.Fatalf("the page has %d blocks of YAML, want the configuration and the pod", len(blocks)-1)
	}
	config, _, _ := strings.Cut(blocks[1], "```")
	pod, _, _ := strings.Cut(blocks[2], "```")

	dir := t.TempDir()
	testca.New(t).WriteFile(t, dir, "ca")
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for mounted, file := range map[string]string{"/var/run/skywarden/token/token": "token", "/var/run/skywarden/ca/ca.pem": "ca.pem"} {
		if !strings.Contains(config, mounted) || !strings.Contains(pod, "mountPath: "+filepath.Dir(mounted)+",") {
			t.Errorf("%s is not in the configuration, or its directory is not mounted into the pod", mounted)
		}
		config = strings.ReplaceAll(config, mounted, filepath.ToSlash(filepath.Join(dir, file)))
	}
	for name, value := range map[string]string{"POD_NAME": "game-7d9f6c-x2x4k", "POD_IP": "10.1.2.3", "ADVERTISE": "10.1.2.3:7000"} {
		if !strings.Contains(pod, "name: "+name) {
			t.Errorf("the pod does not set %s", name)
		}
		t.Setenv(name, value)
	}
	c, err := parse("skywarden.yaml", []byte(config), []string{"echo"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Node.String() != "game-7d9f6c-x2x4k" || c.Advertise.String() != "10.1.2.3:7000" || c.Consul.Principal != "game" || len(c.Consul.Addresses) != 3 {
		t.Errorf("got %+v", c)
	}
	if err := c.Allow.MayOwn(c.Services[0].Name, c.Consul.Principal, c.Advertise); err != nil {
		t.Errorf("the pod may not register its service: %v", err)
	}
}
