package etcd

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/seed-6593ebad/skywarden/naming"
)

const defaultRoot = "/skywarden"

// keys turns names into keys and back: game.lobby is <root>/names/game/lobby.
// So the family "game." is the prefix <root>/names/game/, and one rule of the
// server's access control covers exactly a name or a family.
type keys struct {
	prefix string // <root>/names/
}

var rootPattern = regexp.MustCompile(`^(/[A-Za-z0-9_-]+)+$`)

func newKeys(root string) (keys, error) {
	if root == "" {
		root = defaultRoot
	}
	root = strings.TrimSuffix(root, "/")
	if !rootPattern.MatchString(root) {
		return keys{}, fmt.Errorf("root %q is not like /skywarden or /prod/skywarden: letters, digits, \"_\" and \"-\" between slashes", root)
	}
	return keys{root + "/names/"}, nil
}

func (k keys) of(name naming.Name) string {
	return k.prefix + strings.Join(name.Labels(), "/")
}

// scope gives the range of keys of a scope: end is "" for one key. A prefix
// always ends in a slash, or that of "bank" would hold "bank2" as well.
func (k keys) scope(scope naming.Scope) (key, end string) {
	if name, only := scope.Name(); only {
		return k.of(name), ""
	}
	prefix := k.prefix
	if labels, family := scope.Family(); family {
		prefix += strings.Join(labels, "/") + "/"
	}
	return prefix, clientv3.GetPrefixRangeEnd(prefix)
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
