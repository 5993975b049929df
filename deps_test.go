package skywarden_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/seed-6593ebad/skywarden"

// TestDependencies holds the directions of dependency (docs/design.md) against
// everything that the compiler would build, however indirectly. The linter
// checks the direct imports.
func TestDependencies(t *testing.T) {
	// What a user compiles only if he asks for it, as parts of import paths.
	var (
		yaml       = []string{"yaml"}
		etcdSDK    = []string{"go.etcd.io/", "google.golang.org/"}
		consulSDK  = []string{"hashicorp/"}
		containers = []string{"testcontainers", "docker", "moby/"}
		metrics    = []string{"prometheus"}
		tests      = []string{module + "/internal/testca", module + "/backends/backendtest", module + "/skywardentest", "goleak", "go-cmp"}
		etcd       = []string{module + "/backends/etcd"}
		consul     = []string{module + "/backends/consul"}
		memory     = []string{module + "/backends/memory"}
		backends   = []string{module + "/backends/"}
		adapter    = []string{module + "/adapter"}
		runtime    = []string{module + "/runtime"}
		configs    = []string{module + "/configs"}
	)
	for _, test := range []struct {
		pkgs string
		only []string   // nothing but the standard library and these; nil: anything
		not  [][]string // none of these
		has  [][]string // one of each of these: that the patterns find what they are to find
	}{
		{pkgs: "./naming/...", only: []string{module + "/naming"}},
		{pkgs: "./backends/backendtest/...", only: []string{module + "/naming", module + "/backends/backendtest"}},
		{pkgs: "./runtime/...", not: [][]string{backends, adapter, configs, yaml, etcdSDK, consulSDK, containers, metrics, tests}},
		{pkgs: "./adapter/...", not: [][]string{backends, configs, yaml, etcdSDK, consulSDK, containers, metrics, tests}, has: [][]string{runtime}},
		{pkgs: "./backends/memory/...", not: [][]string{etcd, consul, adapter, runtime, configs, yaml, etcdSDK, consulSDK, containers, metrics, tests}},
		{pkgs: "./backends/etcd/...", not: [][]string{memory, consul, adapter, runtime, configs, yaml, consulSDK, containers, metrics, tests}, has: [][]string{etcdSDK}},
		{pkgs: "./backends/consul/...", not: [][]string{memory, etcd, adapter, runtime, configs, yaml, etcdSDK, containers, metrics, tests}, has: [][]string{consulSDK}},
		{pkgs: "./internal/driver/...", only: []string{module + "/naming", module + "/internal/driver", "rs/zerolog", "mattn/", "golang.org/x/sys"}},
		{pkgs: ".", not: [][]string{etcd, consul, configs, yaml, etcdSDK, consulSDK, containers, metrics, tests}, has: [][]string{runtime, adapter, memory}},
		{pkgs: "./skywardentest/...", not: [][]string{etcd, consul, configs, yaml, etcdSDK, consulSDK, containers, metrics, {module + "/internal/testca", module + "/backends/backendtest", "goleak", "go-cmp"}}, has: [][]string{runtime, adapter, memory}},
		{pkgs: "./configs/...", not: [][]string{containers, tests}, has: [][]string{yaml, etcd, memory}},
		{pkgs: "./cmd/...", not: [][]string{containers, tests}, has: [][]string{configs}},
	} {
		t.Run(test.pkgs, func(t *testing.T) {
			deps := list(t, test.pkgs)
			for _, path := range deps {
				if test.only != nil && find([]string{path}, test.only) == "" {
					t.Errorf("depends on %s, want nothing but the standard library and %v", path, test.only)
				}
			}
			for _, parts := range test.not {
				if path := find(deps, parts); path != "" {
					t.Errorf("depends on %s; see by what with: go list -deps %s", path, test.pkgs)
				}
			}
			for _, parts := range test.has {
				if find(deps, parts) == "" {
					t.Errorf("depends on nothing with %v, want it to", parts)
				}
			}
		})
	}
}

// list returns the import paths of pkgs and of all that they depend on, but
// the standard library's.
func list(t *testing.T, pkgs string) []string {
	t.Helper()
	command := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", pkgs)
	output, err := command.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", command, err, output)
	}
	deps := strings.Fields(string(output))
	if find(deps, []string{module}) == "" {
		t.Fatalf("%v lists no package of this module", command)
	}
	return deps
}

// find returns the first path that contains one of parts, or "".
func find(paths, parts []string) string {
	i := slices.IndexFunc(paths, func(path string) bool {
		return slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(path, part) })
	})
	if i < 0 {
		return ""
	}
	return paths[i]
}
