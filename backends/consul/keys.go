package consul

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/seed-6593ebad/skywarden/naming"
)

const defaultRoot = "skywarden"

// keys turns names into keys of the KV store and back: game.lobby is
// <root>/names/game/lobby. So the family "game." is the prefix
// <root>/names/game/, and one rule of a policy covers exactly a name or a
// family.
//
// No other code makes a key: the client and the server clean up paths, so that
// names/b/../a would be written to names/a (measured on 1.20.1).
type keys struct {
	root   string // without slashes at its ends
	prefix string // <root>/names/
}

var rootPattern = regexp.MustCompile(`^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$`)

func newKeys(root string) (keys, error) {
	if root == "" {
		root = defaultRoot
	}
	if !rootPattern.MatchString(root) {
		return keys{}, fmt.Errorf("root %q is not like skywarden or prod/skywarden: letters, digits, \"_\" and \"-\" between slashes, and none at the ends", root)
	}
	return keys{root, root + "/names/"}, nil
}

func (k keys) of(name naming.Name) string {
	return k.prefix + strings.Join(name.Labels(), "/")
}

// family gives the prefix of a family, or of all names. It ends in a slash, or
// that of "bank" would hold "bank2" as well.
func (k keys) family(scope naming.Scope) string {
	if labels, family := scope.Family(); family {
		return k.prefix + strings.Join(labels, "/") + "/"
	}
	return k.prefix
}

var errForeignKey = errors.New("not the key of a name")

// name is the inverse of of. What of does not give is refused: keys that
// somebody else put below the root, in capitals for example.
func (k keys) name(key string) (naming.Name, error) {
	rest, below := strings.CutPrefix(key, k.prefix)
	if !below || strings.Contains(rest, ".") {
		return naming.Name{}, errForeignKey
	}
	name, err := naming.ParseName(strings.ReplaceAll(rest, "/", "."))
	if err != nil || k.of(name) != key {
		return naming.Name{}, errForeignKey
	}
	return name, nil
}

// node gives the name of the catalog node that a principal has to itself. Rights
// on sessions go by the node's name, so who shares one can end the other's
// sessions. The root is in it because one Consul may serve several.
func (k keys) node(principal string) string {
	return strings.ReplaceAll(k.root, "/", "-") + "-" + principal
}

// principalPattern is what Consul takes for the names of policies.
var principalPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

func checkPrincipal(principal string) error {
	if !principalPattern.MatchString(principal) {
		return fmt.Errorf("principal %q: 1 to 64 letters, digits, \"_\" and \"-\", because policies and nodes of Consul are called after it", principal)
	}
	return nil
}
