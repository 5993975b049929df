package consul

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/seed-6593ebad/skywarden/naming"
)

const renderedCommands = `#!/bin/sh
# Access control for the names below %[1]s: policies, virtual nodes and tokens.
# Run it in the directory of the other files, once, on a Consul that has none of
# it yet, with a management token and the address in the environment:
#
#   CONSUL_HTTP_ADDR=https://…:8501 CONSUL_CACERT=… CONSUL_HTTP_TOKEN_FILE=… sh %[2]s
#
# Each PRINCIPAL.token that it writes is a secret: nobody but the service's own
# user may have it (chmod 600).
set -eu
umask 077
: "${CONSUL_HTTP_ADDR:?}" "${CONSUL_CACERT:?}" "${CONSUL_HTTP_TOKEN_FILE:?}"
register() {
	# The token is not among the arguments, which everybody on the machine sees.
	{ printf 'X-Consul-Token: '; cat "$CONSUL_HTTP_TOKEN_FILE"; } |
		curl --fail --silent --show-error --cacert "$CONSUL_CACERT" --header @- \
			--request PUT --data "@$1" "$CONSUL_HTTP_ADDR/v1/catalog/register" >/dev/null
}
`

// commandsFile is the name of the file of commands.
const commandsFile = "consul-acl.sh"

// Render gives what Plan would do on a server that has none of it as files, for
// people who apply them with tools of their own: per principal its policy
// (policy-PRINCIPAL.hcl) and, if it may claim anything, its virtual node
// (node-PRINCIPAL.json, the body of /v1/catalog/register); and the commands
// (consul-acl.sh). root is that of Config. It fails for a root that is none, and
// for principals that Plan does not take.
func Render(root string, grants []naming.Grant) ([]naming.File, error) {
	k, err := newKeys(root)
	if err != nil {
		return nil, fmt.Errorf("consul: %w", err)
	}
	if err := errors.Join(k.checkPrincipals(grants)...); err != nil {
		return nil, fmt.Errorf("consul: render: %w", err)
	}
	var files []naming.File
	var commands bytes.Buffer
	fmt.Fprintf(&commands, renderedCommands, k.root, commandsFile)
	for _, g := range grants {
		policy, want := k.node(g.Principal), k.rules(g)
		hcl := "policy-" + g.Principal + ".hcl"
		files = append(files, naming.File{Name: hcl, Content: fmt.Appendf(nil, "# policy %s\n%s", policy, want)})
		fmt.Fprintf(&commands, "\n# %s\nconsul acl policy create -name=%s -description='%s' -rules=@%s >/dev/null\n", g.Principal, policy, k.marker(g.Principal), hcl)
		if want.claims() {
			node, err := json.MarshalIndent(k.virtualNode(g.Principal), "", "  ")
			if err != nil {
				return nil, fmt.Errorf("consul: render: %w", err)
			}
			file := "node-" + g.Principal + ".json"
			files = append(files, naming.File{Name: file, Content: append(node, '\n')})
			fmt.Fprintf(&commands, "register %s\n", file)
		}
		fmt.Fprintf(&commands, "made=$(consul acl token create -accessor=%s -description='%s' -policy-name=%s)\nprintf '%%s\\n' \"$made\" | sed -n 's/^SecretID: *//p' >%s.token\n",
			k.accessor(g.Principal), k.marker(g.Principal), policy, g.Principal)
	}
	return append(files, naming.File{Name: commandsFile, Content: commands.Bytes()}), nil
}

// A virtualNode is the registration of a node that is no machine: sessions hang
// on it, and no agent's health ends them.
type virtualNode struct {
	Node     string
	Address  string
	NodeMeta map[string]string
}

// The meta of virtual nodes. Without the first Consul removes a node that has no
// agent.
const (
	externalMeta = "external-node"
	markerMeta   = "skywarden"
)

func (k keys) virtualNode(principal string) virtualNode {
	return virtualNode{
		Node: k.node(principal), Address: "127.0.0.1",
		NodeMeta: map[string]string{externalMeta: "true", markerMeta: k.marker(principal)},
	}
}
