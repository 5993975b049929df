package etcd

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.etcd.io/etcd/api/v3/authpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/seed-6593ebad/skywarden/naming"
)

// A permission is what a role of etcd gives: access to the keys from key up to
// end, without end, or to the one key where end is "". Permissions of etcd add up: there is
// none that takes something away.
type permission struct {
	key, end string
	kind     authpb.Permission_Type
}

// permissions gives the ranges of a grant. Because they can only add up, a
// family of which something is excluded becomes several ranges. What may be read
// is always told in as few ranges as there can be, also where parts of it may be
// claimed as well: the server lets a range or a watch pass only if it is covered,
// and so a watch over all names needs nothing but that nothing is excluded.
//
// The ranges are exact for the keys of names. They end and begin so that they
// hold as little else as can be.
func (k keys) permissions(g naming.Grant) []permission {
	var spans []span
	for _, p := range g.Simplify().Permissions { // from wide to narrow
		spans = paint(spans, k.span(p.Scope, p.Access))
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	claim := join(spans, naming.MayClaim)
	read := slices.DeleteFunc(join(spans, naming.MayRead), func(s span) bool { return slices.Contains(claim, s) })
	var all []permission
	for _, s := range claim {
		all = append(all, s.permission(authpb.Permission_READWRITE))
	}
	for _, s := range read {
		all = append(all, s.permission(authpb.Permission_READ))
	}
	return all
}

// A span is the keys that from begins and to ends, without to, with what the
// closest scope gives them.
type span struct {
	from, to string
	access   naming.Access
}

func (k keys) span(scope naming.Scope, access naming.Access) span {
	key, end := k.scope(scope)
	if end == "" {
		end = after(key)
	}
	return span{key, end, access}
}

// after gives where the keys of names go on behind that of a name: they are made
// of "-", "/", "0" to "9", "_" and "a" to "z", of which "-" is the first, and no
// label ends in it. (A zero byte would do as well, but not on a command line.)
func after(key string) string { return key + "-" }

// paint puts one span over others. It is inside one of them, holds them, or has
// nothing to do with them, as scopes do.
func paint(spans []span, over span) []span {
	var out []span
	for _, s := range spans {
		if s.to <= over.from || over.to <= s.from {
			out = append(out, s)
			continue
		}
		if s.from < over.from {
			out = append(out, span{s.from, over.from, s.access})
		}
		if over.to < s.to {
			out = append(out, span{over.to, s.to, s.access})
		}
	}
	return append(out, over)
}

// join gives the parts of sorted spans that give access, as long as they can be.
func join(spans []span, access naming.Access) []span {
	var out []span
	for _, s := range spans {
		switch last := len(out) - 1; {
		case s.access < access:
		case last >= 0 && out[last].to == s.from:
			out[last].to = s.to
		default:
			out = append(out, span{from: s.from, to: s.to})
		}
	}
	return out
}

func (s span) permission(kind authpb.Permission_Type) permission {
	if s.to == after(s.from) {
		return permission{s.from, "", kind}
	}
	return permission{s.from, s.to, kind}
}

// touches says whether the permission is about any key of a range.
func (p permission) touches(from, to string) bool {
	switch p.end {
	case "":
		return from <= p.key && p.key < to
	case "\x00": // everything from key on
		return p.key < to
	}
	return p.key < to && from < p.end
}

// isPrefix says whether the range is exactly the keys that begin with p.key.
func (p permission) isPrefix() bool {
	return p.end != "" && p.end == clientv3.GetPrefixRangeEnd(p.key)
}

// String gives "readwrite /skywarden/names/game/*".
func (p permission) String() string {
	s := strings.ToLower(p.kind.String()) + " "
	switch {
	case p.end == "":
		return s + showKey(p.key)
	case p.isPrefix():
		return s + showKey(p.key) + "*"
	}
	return s + fmt.Sprintf("[%s, %s)", showKey(p.key), showKey(p.end))
}

// showKey shows a key that somebody else may have chosen.
func showKey(key string) string {
	if quoted := strconv.Quote(key); quoted[1:len(quoted)-1] != key || key == "" {
		return quoted
	}
	return key
}
