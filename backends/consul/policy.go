package consul

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/seed-6593ebad/skywarden/naming"
)

// A target is what a rule of a policy is about: key "a/b", key_prefix "a/".
type target struct {
	kind string // "key", "key_prefix" or "session"
	name string
}

func (t target) String() string { return fmt.Sprintf("%s %q", t.kind, t.name) }

// rules are those of a policy: "read", "write" or "deny" for each target.
type rules map[target]string

// rules gives the policy of a grant. Consul judges a key by its exact rule, else
// by the longest prefix, and so does a Grant: each permission is one rule. Nobody
// gets session_prefix, or rights on nodes: with them it could end the sessions of
// others.
func (k keys) rules(g naming.Grant) rules {
	all, claims := rules{}, false
	for _, p := range g.Simplify().Permissions {
		t := target{"key_prefix", k.family(p.Scope)}
		if name, only := p.Scope.Name(); only {
			t = target{"key", k.of(name)}
		}
		all[t] = map[naming.Access]string{naming.NoAccess: "deny", naming.MayRead: "read", naming.MayClaim: "write"}[p.Access]
		claims = claims || p.Access == naming.MayClaim
	}
	if claims {
		all[target{"session", k.node(g.Principal)}] = "write"
	}
	return all
}

// claims says whether whoever has these rules needs a node for its sessions.
func (r rules) claims() bool {
	return slices.Contains(slices.Collect(maps.Values(r)), "write")
}

// targets are sorted: prefixes last, as keys and sessions are exceptions of them
// or beside them.
func (r rules) targets() []target {
	return slices.SortedFunc(maps.Keys(r), func(a, b target) int {
		return strings.Compare(a.kind+" "+a.name, b.kind+" "+b.name)
	})
}

// String gives the rules in HCL.
func (r rules) String() string {
	var out strings.Builder
	for _, t := range r.targets() {
		fmt.Fprintf(&out, "%s { policy = %q }\n", t, r[t])
	}
	return out.String()
}

var (
	ruleComment = regexp.MustCompile(`(?m)(#|//).*$`)
	ruleBlock   = regexp.MustCompile(`^\s*([a-z_]+)\s+"([^"\\$\n]*)"\s*\{\s*policy\s*=\s*"([a-z]+)"\s*\}`)
)

// parseRules reads HCL of the form that String writes, in whatever layout. It is
// false for everything else that Consul takes: what is not understood is not what
// should be there.
func parseRules(hcl string) (rules, bool) {
	all := rules{}
	hcl = ruleComment.ReplaceAllString(hcl, "")
	for {
		block := ruleBlock.FindStringSubmatch(hcl)
		if block == nil {
			return all, strings.TrimSpace(hcl) == ""
		}
		t := target{block[1], block[2]}
		if _, twice := all[t]; twice {
			return nil, false
		}
		all[t] = block[3]
		hcl = hcl[len(block[0]):]
	}
}

// differ says how the rules of a policy differ from what they should be, "" if
// they do not.
func (r rules) differ(hcl string) string {
	is, understood := parseRules(hcl)
	if !understood {
		return "its rules are not what skywarden writes: they are replaced"
	}
	var what []string
	for _, t := range r.targets() {
		switch has, there := is[t]; {
		case !there:
			what = append(what, fmt.Sprintf("give %s %s, which is missing", r[t], t))
		case has != r[t]:
			what = append(what, fmt.Sprintf("give %s %s, which is %s", r[t], t, has))
		}
	}
	for _, t := range is.targets() {
		if _, wanted := r[t]; !wanted {
			what = append(what, fmt.Sprintf("take %s %s, which is too much", is[t], t))
		}
	}
	return strings.Join(what, "; ")
}

// brief is the rules in one line.
func (r rules) brief() string {
	var all []string
	for _, t := range r.targets() {
		all = append(all, r[t]+" "+t.String())
	}
	if len(all) == 0 {
		return "no rights"
	}
	return strings.Join(all, ", ")
}

// marker is what the policies, the tokens and the node of a principal are marked
// with, as a description. Names alone do not tell whose they are: skywarden-eu-a
// is that of eu-a below skywarden, and of a below skywarden/eu.
func (k keys) marker(principal string) string {
	return "skywarden: " + principal + " below " + k.root
}

var markerPattern = regexp.MustCompile(`^skywarden: ([A-Za-z0-9_-]{1,64}) below ([A-Za-z0-9_/-]+)$`)

// marked gives whose something is, and whether it is anybody's.
func marked(marker string) (principal, root string, ok bool) {
	m := markerPattern.FindStringSubmatch(marker)
	if m == nil {
		return "", "", false
	}
	return m[1], m[2], true
}

// accessor is the id, which is not secret, of the token that Provision makes for
// a principal. It is always the same, so that a creation whose answer was lost is
// not one token too many.
func (k keys) accessor(principal string) string {
	h := sha256.Sum256([]byte(k.marker(principal)))
	h[6], h[8] = h[6]&0x0f|0x80, h[8]&0x3f|0x80 // a UUID of version 8
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

// checkPrincipals says what is wrong with principals, all of it.
func (k keys) checkPrincipals(grants []naming.Grant) []error {
	var problems []error
	seen := map[string]string{}
	for _, g := range grants {
		if err := checkPrincipal(g.Principal); err != nil {
			problems = append(problems, fmt.Errorf("%w: %w", naming.ErrInsecureConfig, err))
			continue
		}
		node := k.node(g.Principal)
		if !nodePattern.MatchString(node) {
			problems = append(problems, fmt.Errorf("%w: principal %q: its node would be called %q, and that is more than 128 characters, or begins with none that is a letter or digit", naming.ErrInsecureConfig, g.Principal, node))
		}
		// To Consul the names of nodes and policies are the same in capitals.
		same := strings.ToLower(g.Principal)
		switch other, twice := seen[same]; {
		case twice && other == g.Principal:
			problems = append(problems, fmt.Errorf("%w: there are two grants for principal %q: join them", naming.ErrInsecureConfig, g.Principal))
		case twice:
			problems = append(problems, fmt.Errorf("%w: principals %q and %q differ in capitals alone, which the names of nodes do not: rename one", naming.ErrInsecureConfig, other, g.Principal))
		}
		seen[same] = g.Principal
	}
	return problems
}
