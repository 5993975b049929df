package etcd

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"

	"github.com/seed-6593ebad/skywarden/internal/driver"
	"github.com/seed-6593ebad/skywarden/naming"
)

const rendered = `# Access control for the names below %[1]s, as arguments of etcdctl: one command
# in each line. Run them as root, on a server that has none of it yet:
#
#   grep -v '^#' etcd-roles.txt | while read -r args; do etcdctl $args </dev/null; done
#
# The server runs with --client-cert-auth and --trusted-ca-file, so that a user
# is the common name of a client certificate and needs no password. It does not
# run the gateway, which knows no client certificates: --enable-grpc-gateway=false.

# An administrator, who owns no name.
user add %[2]s --no-password
user grant-role %[2]s %[3]s
`

// word is what a line of the file takes for one argument, whatever shell reads
// it.
var word = regexp.MustCompile(`^[A-Za-z0-9_.:@/][A-Za-z0-9_.:@/=+-]*$`)

// Render gives what Plan would do on an empty server as a file of commands, for
// people who apply them with tools of their own. root is that of Config. It fails
// for a root that is none, and for a principal that is not one word of a command
// line, or is the administrator.
func Render(root string, grants []naming.Grant) ([]naming.File, error) {
	k, err := newKeys(root)
	if err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	if err := checkPrincipals(grants); err != nil {
		return nil, driver.Fail(driverName, "render", naming.Name{}, err)
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, rendered, strings.TrimSuffix(k.prefix, "/names/"), rootUser, rootRole)
	for _, g := range grants {
		if !word.MatchString(g.Principal) {
			return nil, fmt.Errorf("etcd: render: principal %q is not one word of a command line: use skywarden provision, which needs none", g.Principal)
		}
		role := k.roles() + g.Principal
		fmt.Fprintf(&out, "\n# The principal %s.\nrole add %s\n", g.Principal, role)
		for _, p := range k.permissions(g) {
			fmt.Fprintf(&out, "role grant-permission %s %s %s", role, strings.ToLower(p.kind.String()), p.key)
			switch {
			case p.isPrefix():
				out.WriteString(" --prefix=true")
			case p.end != "":
				out.WriteString(" " + p.end)
			}
			out.WriteByte('\n')
		}
		fmt.Fprintf(&out, "user add %s --no-password\nuser grant-role %s %s\n", g.Principal, g.Principal, role)
	}
	out.WriteString("\n# From here on nobody does what no role allows.\nauth enable\n")
	return []naming.File{{Name: "etcd-roles.txt", Content: out.Bytes()}}, nil
}
