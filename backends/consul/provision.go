package consul

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/seed-6593ebad/skywarden/naming"
)

// AdminConfig says how to reach Consul as an administrator, and where the tokens
// that it makes go.
type AdminConfig struct {
	// Config is that of a Backend. Its token may do everything, or acl:write, and
	// node:read and node:write for the principals' nodes. Principal and Node are not
	// looked at.
	Config
	// TokenDir is the directory of the token files, PRINCIPAL.token, each readable
	// by its owner alone. It is made if need be, with mode 0700.
	TokenDir string
}

// An Admin is the naming.Provisioner of a Consul datacentre.
//
// Each principal gets a policy with exactly the rules of its grant, called
// ROOT-PRINCIPAL ("skywarden-game"); a token that has this policy and nothing
// else, whose secret is in the principal's token file; and if it may claim
// anything, a virtual node of the same name, on which its sessions hang. All of
// them are marked as those of the principal, the policy and the token by their
// descriptions, the node by its meta.
//
// More tokens of a principal, with the same description, are accepted, and so is
// the secret of any of them in the file: that is how a token is replaced without
// a pause. Other tokens are not looked at, nor are roles and auth methods, nor
// what the anonymous token may do: whoever has acl:write can give anybody any
// right. Backend.Inspect finds what gives rights to everybody.
type Admin struct {
	b        *Backend
	keys     keys
	tokenDir string
}

var _ naming.Provisioner = (*Admin)(nil)

// administrator is the principal of an Admin: it opens no session and owns no
// name.
const administrator = "administrator"

// OpenAdmin connects, as Open does and with the same errors.
func OpenAdmin(ctx context.Context, cfg AdminConfig) (*Admin, error) {
	cfg.Principal, cfg.Node = administrator, ""
	s, err := cfg.check()
	if cfg.TokenDir == "" {
		err = errors.Join(err, errors.New("consul: there is no TokenDir, where the principals' tokens go"))
	}
	if err != nil {
		return nil, err
	}
	b, err := Open(ctx, cfg.Config)
	if err != nil {
		return nil, err
	}
	return &Admin{b, s.keys, cfg.TokenDir}, nil
}

// Close implements naming.Provisioner.
func (a *Admin) Close() error { return a.b.Close() }

// Plan implements naming.Provisioner. Policies, nodes and tokens are each changed
// in one step: whoever may do something before and after may do it meanwhile.
// What is given comes before what is deleted.
//
// With prune the tokens, the policy and the node of each principal who is not in
// grants are deleted, and its token file too if one of these tokens is in it. Its
// sessions end with its node, and its names are free at once.
//
// It fails with ErrDenied if the token may not write ACLs, with ErrInsecureConfig
// if a principal is no name for Consul or is the administrator, or if what is
// called as its policy or node should be is that of somebody else; and if a token
// file cannot be read. A file that is no file of this principal is written over
// only by a Change that says so.
func (a *Admin) Plan(ctx context.Context, grants []naming.Grant, prune bool) ([]naming.Change, error) {
	changes, err := a.plan(ctx, grants, prune)
	return changes, a.b.life.Fail("plan", naming.Name{}, err)
}

func (a *Admin) plan(ctx context.Context, grants []naming.Grant, prune bool) ([]naming.Change, error) {
	if err := errors.Join(a.keys.checkPrincipals(grants)...); err != nil {
		return nil, err
	}
	is, err := a.look(ctx)
	if errors.Is(err, naming.ErrDenied) {
		err = fmt.Errorf("%w: only a management token may see and change the access control", err)
	}
	if err != nil {
		return nil, err
	}
	p := plan{Admin: a, is: is, listed: map[string]bool{}}
	var problems []error
	for _, g := range grants {
		p.listed[g.Principal] = true
		problems = append(problems, p.check(g.Principal))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	for _, g := range grants {
		if err := p.principal(ctx, g); err != nil {
			return nil, err
		}
	}
	if prune {
		err = p.prune()
	}
	return append(p.give, p.take...), err
}

// An access is the access control of a server.
type access struct {
	self     string // the accessor of our own token
	policies []*api.ACLPolicyListEntry
	tokens   []*api.ACLTokenListEntry
	nodes    []*api.Node
}

// Deadlines of each question and each change.
const (
	adminTimeout = 5 * time.Second
	adminTry     = 1500 * time.Millisecond
)

func (a *Admin) ask(ctx context.Context, f func(context.Context, *api.Client) error) error {
	return a.b.ask(ctx, adminTimeout, adminTry, f)
}

// look reads the whole access control.
func (a *Admin) look(ctx context.Context) (is access, err error) {
	err = a.ask(ctx, func(ctx context.Context, client *api.Client) error {
		self, _, err := client.ACL().TokenReadSelf(a.b.reading(ctx))
		if err != nil {
			return err
		}
		is.self = self.AccessorID
		if is.policies, _, err = client.ACL().PolicyList(a.b.reading(ctx)); err != nil {
			return err
		}
		if is.tokens, _, err = client.ACL().TokenList(a.b.reading(ctx)); err != nil {
			return err
		}
		is.nodes, _, err = client.Catalog().Nodes(a.b.reading(ctx))
		return err
	})
	for _, token := range is.tokens {
		if token.SecretID == hiddenSecret {
			return is, fmt.Errorf("%w: the token may read ACLs and not write them", naming.ErrDenied)
		}
	}
	return is, err
}

// hiddenSecret is what a token list has instead of secrets for whoever may not
// write ACLs.
const hiddenSecret = "<hidden>"

// policy gives the policy of a principal, nil if there is none.
func (is access) policy(name string) *api.ACLPolicyListEntry {
	at := slices.IndexFunc(is.policies, func(p *api.ACLPolicyListEntry) bool { return strings.EqualFold(p.Name, name) })
	if at < 0 {
		return nil
	}
	return is.policies[at]
}

func (is access) node(name string) *api.Node {
	at := slices.IndexFunc(is.nodes, func(n *api.Node) bool { return strings.EqualFold(n.Node, name) })
	if at < 0 {
		return nil
	}
	return is.nodes[at]
}

// tokensOf gives the tokens of a principal, the one that we made first.
func (a *Admin) tokensOf(is access, principal string) []*api.ACLTokenListEntry {
	accessor, marker := a.keys.accessor(principal), a.keys.marker(principal)
	var tokens []*api.ACLTokenListEntry
	for _, token := range is.tokens {
		switch {
		case token.AccessorID == accessor:
			tokens = slices.Insert(tokens, 0, token)
		case token.Description == marker:
			tokens = append(tokens, token)
		}
	}
	return tokens
}

func (a *Admin) tokenFile(principal string) string {
	return filepath.Join(a.tokenDir, principal+".token")
}

// A plan is what is to be done, in two parts that follow each other.
type plan struct {
	*Admin
	is         access
	listed     map[string]bool // the principals of the grants
	give, take []naming.Change
}

func (p *plan) change(into *[]naming.Change, do, object, detail string, apply func(context.Context) error) {
	*into = append(*into, naming.Change{Do: do, Object: object, Detail: detail, Apply: func(ctx context.Context) error {
		return p.b.life.Fail(do+" "+object, naming.Name{}, apply(ctx))
	}})
}

// check refuses a principal whose things are those of somebody else.
func (p *plan) check(principal string) error {
	name := p.keys.node(principal)
	foreign := func(what, marker string) error {
		owner, root, ours := marked(marker)
		if !ours || marker == p.keys.marker(principal) {
			return nil
		}
		return fmt.Errorf("%w: the %s %s is that of principal %q below root %q: give principal %q another name", naming.ErrInsecureConfig, what, name, owner, root, principal)
	}
	if policy := p.is.policy(name); policy != nil {
		if err := foreign("policy", policy.Description); err != nil {
			return err
		}
	}
	if node := p.is.node(name); node != nil {
		if err := foreign("node", node.Meta[markerMeta]); err != nil {
			return err
		}
		if node.Meta[externalMeta] != "true" {
			return fmt.Errorf("%w: the node %s is there and is no virtual one (its meta has no %s=true): if it is a machine, give principal %q another name; otherwise delete it", naming.ErrInsecureConfig, name, externalMeta, principal)
		}
	}
	for _, token := range p.tokensOf(p.is, principal) {
		if token.AccessorID == p.is.self {
			return fmt.Errorf("%w: the token of principal %q is the administrator's who provisions: use one that is no principal's", naming.ErrInsecureConfig, principal)
		}
	}
	return nil
}

// principal makes what one principal has what it should be.
func (p *plan) principal(ctx context.Context, g naming.Grant) error {
	name, want := p.keys.node(g.Principal), p.keys.rules(g)
	apply := func(ctx context.Context) error { return p.setPolicy(ctx, g.Principal, want) }
	if policy := p.is.policy(name); policy == nil {
		p.change(&p.give, "create", "policy "+name, want.brief(), apply)
	} else {
		has, err := p.readPolicy(ctx, policy.Name)
		if err != nil {
			return err
		}
		if differ := want.differ(has.Rules); differ != "" {
			p.change(&p.give, "change", "policy "+name, differ, apply)
		}
	}
	if want.claims() && p.is.node(name) == nil {
		p.change(&p.give, "create", "node "+name, "virtual, for the sessions of "+g.Principal, func(ctx context.Context) error { return p.setNode(ctx, g.Principal) })
	}
	return p.token(g.Principal)
}

// token makes the principal's tokens have its policy and nothing else, and its
// file the secret of one of them.
func (p *plan) token(principal string) error {
	object, path := "token of "+principal, p.tokenFile(principal)
	file, err := readTokenFile(path)
	if err != nil {
		return err
	}
	tokens := p.tokensOf(p.is, principal)
	known := slices.ContainsFunc(tokens, func(t *api.ACLTokenListEntry) bool { return t.SecretID == file.secret })
	overwritten := ""
	if file.exists && !known {
		overwritten = ", in the place of " + p.whose(file.secret)
	}
	write := func(ctx context.Context) error {
		secret, err := p.ensureToken(ctx, principal)
		if err != nil {
			return err
		}
		return writeTokenFile(path, secret)
	}
	if len(tokens) == 0 {
		p.change(&p.give, "create", object, fmt.Sprintf("with the policy %s and nothing else; its secret goes to %s%s", p.keys.node(principal), path, overwritten), write)
		return nil
	}
	for _, token := range tokens {
		if rights := rightsOf(token); !strings.EqualFold(rights, "policy "+p.keys.node(principal)) {
			p.change(&p.give, "change", object, fmt.Sprintf("token %s: give it the policy %s and nothing else; it has %s", token.AccessorID, p.keys.node(principal), rights),
				func(ctx context.Context) error { return p.restrictToken(ctx, token, principal) })
		}
	}
	// The one that we made if it is there, else the first: all have the same rights.
	secret := func(ctx context.Context) error {
		token, err := p.readToken(ctx, tokens[0].AccessorID)
		if err == nil && token == nil {
			err = fmt.Errorf("%w: the token has been deleted meanwhile: plan again", naming.ErrUnavailable)
		}
		if err != nil {
			return err
		}
		return writeTokenFile(path, token.SecretID)
	}
	switch {
	case !file.exists:
		p.change(&p.give, "create", "token file of "+principal, fmt.Sprintf("%s, with the secret of token %s", path, tokens[0].AccessorID), secret)
	case !known:
		p.change(&p.give, "change", "token file of "+principal, fmt.Sprintf("%s: write the secret of token %s%s", path, tokens[0].AccessorID, overwritten), secret)
	case file.loose != 0:
		p.change(&p.give, "change", "token file of "+principal, fmt.Sprintf("%s: nobody but its owner may have access: its mode is %04o; if somebody else may have read it, delete the token and provision again", path, file.loose),
			func(context.Context) error { return os.Chmod(path, 0o600) })
	}
	return nil
}

// whose says what is known about a secret that is none of the principal's tokens.
// It does not repeat it.
func (p *plan) whose(secret string) string {
	for _, token := range p.is.tokens {
		if token.SecretID == secret {
			return fmt.Sprintf("the secret of token %s (%q), which has %s", token.AccessorID, token.Description, rightsOf(token))
		}
	}
	return "a secret that this Consul does not know"
}

// rightsOf lists everything that gives rights to a token.
func rightsOf(token *api.ACLTokenListEntry) string {
	var all []string
	for _, policy := range token.Policies {
		all = append(all, "policy "+policy.Name)
	}
	for _, role := range token.Roles {
		all = append(all, "role "+role.Name)
	}
	for _, service := range token.ServiceIdentities {
		all = append(all, "service identity "+service.ServiceName)
	}
	for _, node := range token.NodeIdentities {
		all = append(all, "node identity "+node.NodeName)
	}
	for _, policy := range token.TemplatedPolicies {
		all = append(all, "templated policy "+policy.TemplateName)
	}
	if len(all) == 0 {
		return "nothing"
	}
	return strings.Join(all, ", ")
}

// prune takes away what principals have who are not listed.
func (p *plan) prune() error {
	gone := map[string]bool{}
	found := func(marker string) {
		if principal, root, ours := marked(marker); ours && root == p.keys.root && !p.listed[principal] {
			gone[principal] = true
		}
	}
	for _, policy := range p.is.policies {
		found(policy.Description)
	}
	for _, token := range p.is.tokens {
		found(token.Description)
	}
	for _, node := range p.is.nodes {
		found(node.Meta[markerMeta])
	}
	for _, principal := range slices.Sorted(maps.Keys(gone)) {
		const why = "its principal is not in the list"
		for _, token := range p.tokensOf(p.is, principal) {
			if token.AccessorID == p.is.self {
				return fmt.Errorf("%w: the token of principal %q is the administrator's who provisions: use one that is no principal's", naming.ErrInsecureConfig, principal)
			}
			detail, path := "token "+token.AccessorID+": "+why, p.tokenFile(principal)
			file, err := readTokenFile(path)
			if err != nil {
				return err
			}
			last := file.exists && file.secret == token.SecretID
			if last {
				detail += "; " + path + " goes too"
			}
			p.change(&p.take, "delete", "token of "+principal, detail, func(ctx context.Context) error {
				err := p.deleteToken(ctx, token.AccessorID)
				if err == nil && last {
					err = unlessGone(os.Remove(path))
				}
				return err
			})
		}
		name, marker := p.keys.node(principal), p.keys.marker(principal)
		if policy := p.is.policy(name); policy != nil && policy.Description == marker {
			p.change(&p.take, "delete", "policy "+name, why, func(ctx context.Context) error { return p.deletePolicy(ctx, policy.ID) })
		}
		if node := p.is.node(name); node != nil && node.Meta[markerMeta] == marker {
			p.change(&p.take, "delete", "node "+name, why, func(ctx context.Context) error { return p.deleteNode(ctx, node.Node) })
		}
	}
	return nil
}

func unlessGone(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// The steps below may be repeated: what is there already is left or corrected,
// what is gone already is fine.

func (a *Admin) readPolicy(ctx context.Context, name string) (policy *api.ACLPolicy, err error) {
	err = a.ask(ctx, func(ctx context.Context, client *api.Client) (err error) {
		policy, _, err = client.ACL().PolicyReadByName(name, a.b.reading(ctx))
		return err
	})
	if err == nil && policy == nil {
		policy = &api.ACLPolicy{} // deleted since it was listed: it has no rules
	}
	return policy, err
}

func (a *Admin) setPolicy(ctx context.Context, principal string, want rules) error {
	name := a.keys.node(principal)
	return a.ask(ctx, func(ctx context.Context, client *api.Client) error {
		policy, _, err := client.ACL().PolicyReadByName(name, a.b.reading(ctx))
		if err != nil {
			return err
		}
		if policy == nil {
			_, _, err = client.ACL().PolicyCreate(&api.ACLPolicy{Name: name, Description: a.keys.marker(principal), Rules: want.String()}, a.b.writing(ctx))
			return err
		}
		policy.Name, policy.Description, policy.Rules = name, a.keys.marker(principal), want.String()
		_, _, err = client.ACL().PolicyUpdate(policy, a.b.writing(ctx))
		return err
	})
}

func (a *Admin) deletePolicy(ctx context.Context, id string) error {
	return a.ask(ctx, func(ctx context.Context, client *api.Client) error {
		_, err := client.ACL().PolicyDelete(id, a.b.writing(ctx))
		return unlessStatus(err, http.StatusNotFound, "")
	})
}

func (a *Admin) setNode(ctx context.Context, principal string) error {
	node := a.keys.virtualNode(principal)
	return a.ask(ctx, func(ctx context.Context, client *api.Client) error {
		_, err := client.Catalog().Register(&api.CatalogRegistration{Node: node.Node, Address: node.Address, NodeMeta: node.NodeMeta}, a.b.writing(ctx))
		return err
	})
}

func (a *Admin) deleteNode(ctx context.Context, name string) error {
	return a.ask(ctx, func(ctx context.Context, client *api.Client) error {
		_, err := client.Catalog().Deregister(&api.CatalogDeregistration{Node: name}, a.b.writing(ctx))
		return err
	})
}

// ensureToken gives the secret of the token that we make for a principal. One
// that is there already was made by a try whose answer was lost.
func (a *Admin) ensureToken(ctx context.Context, principal string) (secret string, err error) {
	err = a.ask(ctx, func(ctx context.Context, client *api.Client) error {
		token, err := readToken(client, a.keys.accessor(principal), a.b.reading(ctx))
		if err == nil && token == nil {
			token, _, err = client.ACL().TokenCreate(&api.ACLToken{
				AccessorID: a.keys.accessor(principal), Description: a.keys.marker(principal),
				Policies: []*api.ACLLink{{Name: a.keys.node(principal)}},
			}, a.b.writing(ctx))
		}
		if err == nil {
			secret = token.SecretID
		}
		return err
	})
	return secret, err
}

func (a *Admin) readToken(ctx context.Context, accessor string) (token *api.ACLToken, err error) {
	err = a.ask(ctx, func(ctx context.Context, client *api.Client) (err error) {
		token, err = readToken(client, accessor, a.b.reading(ctx))
		return err
	})
	return token, err
}

// readToken gives nil for a token that is not there.
func readToken(client *api.Client, accessor string, options *api.QueryOptions) (*api.ACLToken, error) {
	token, _, err := client.ACL().TokenRead(accessor, options)
	if err != nil && unlessStatus(err, http.StatusForbidden, "token does not exist") == nil {
		return nil, nil // Consul refuses what is not there
	}
	return token, err
}

// restrictToken leaves the principal's policy to a token, and takes everything
// else.
func (a *Admin) restrictToken(ctx context.Context, token *api.ACLTokenListEntry, principal string) error {
	return a.ask(ctx, func(ctx context.Context, client *api.Client) error {
		_, _, err := client.ACL().TokenUpdate(&api.ACLToken{
			AccessorID: token.AccessorID, Description: a.keys.marker(principal), Local: token.Local,
			Policies: []*api.ACLLink{{Name: a.keys.node(principal)}},
		}, a.b.writing(ctx))
		return err
	})
}

func (a *Admin) deleteToken(ctx context.Context, accessor string) error {
	return a.ask(ctx, func(ctx context.Context, client *api.Client) error {
		_, err := client.ACL().TokenDelete(accessor, a.b.writing(ctx))
		return unlessStatus(err, http.StatusNotFound, "")
	})
}

// unlessStatus gives err, but nil where the server says this: that there is
// nothing to do.
func unlessStatus(err error, code int, text string) error {
	if status, ok := errors.AsType[api.StatusError](err); ok && status.Code == code && strings.Contains(status.Body, text) {
		return nil
	}
	return err
}
