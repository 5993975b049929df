package etcd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/seed-6593ebad/skywarden/internal/driver"
	"github.com/seed-6593ebad/skywarden/naming"
)

// AdminConfig says how to reach etcd as an administrator.
type AdminConfig struct {
	// Config is that of a Backend. Its credential is that of a user who has the role
	// root; while access control is off, of anybody. Such a server is accepted here:
	// to turn access control on is part of what Plan finds. All that is below Root is
	// taken for Skywarden's, so no root may be inside of another.
	Config
}

// An Admin is the naming.Provisioner of an etcd cluster.
//
// Each principal gets one role, ROOT:PRINCIPAL ("skywarden:game"), with exactly
// the ranges of its grant, and is a user without a password: the common name of
// its client certificate. Whoever is to have a password is added by hand first. A
// user that is there stays as it is, but for roles that
// give anything below the root: of these it has its own alone.
type Admin struct {
	b     *Backend
	roles string // how the names of the roles begin: "skywarden:"
}

var _ naming.Provisioner = (*Admin)(nil)

// OpenAdmin connects, as Open does and with the same errors.
func OpenAdmin(ctx context.Context, cfg AdminConfig) (*Admin, error) {
	s, err := cfg.check()
	if err != nil {
		return nil, err
	}
	b, err := open(ctx, s, rules{
		acceptVulnerable: s.InsecureAcceptVulnerableServer,
		acceptPlaintext:  s.InsecureDevelopmentOnly, acceptNoAuth: true,
	})
	if err != nil {
		return nil, err
	}
	return &Admin{b, s.keys.roles()}, nil
}

// roles gives how the names of the roles of this root begin. No root has a colon,
// so those of another root begin otherwise.
func (k keys) roles() string {
	return strings.TrimPrefix(strings.TrimSuffix(k.prefix, "/names/"), "/") + ":"
}

// Close implements naming.Provisioner.
func (a *Admin) Close() error { return a.b.Close() }

// The names that etcd gives to its administrator, and to what that may do.
const (
	rootUser = "root"
	rootRole = "root"
)

// Plan implements naming.Provisioner. Rights are given before others are taken
// away, and access control is turned on last: whoever may do something before and
// after may do it meanwhile.
//
// With prune users who are not in grants lose the roles that give anything below
// the root, unless they have the role root, and the roles of principals who are
// not in grants are deleted; a user who has nothing else is deleted too.
//
// It fails with ErrDenied if the user has not the role root; and with
// ErrInsecureConfig if a principal is the administrator, because whoever may do
// everything cannot be given less, and if access control is to be turned on by
// somebody who could not go on afterwards.
func (a *Admin) Plan(ctx context.Context, grants []naming.Grant, prune bool) ([]naming.Change, error) {
	const op = "plan"
	if err := checkPrincipals(grants); err != nil {
		return nil, a.b.life.Fail(op, naming.Name{}, err)
	}
	if err := a.checkOff(ctx); err != nil {
		return nil, a.b.life.Fail(op, naming.Name{}, err)
	}
	is, err := a.look(ctx)
	if errors.Is(err, naming.ErrDenied) {
		err = fmt.Errorf("%w: only a user with the role root may see and change the access control", err)
	}
	if err == nil {
		err = a.checkSelf(grants, is)
	}
	if err != nil {
		return nil, a.b.life.Fail(op, naming.Name{}, err)
	}
	p := plan{admin: a, is: is, listed: map[string]bool{}}
	for _, g := range grants {
		p.listed[g.Principal] = true
	}
	for _, g := range grants {
		p.role(g)
		p.user(g.Principal)
	}
	if prune {
		p.prune()
	}
	if !is.enabled {
		p.enable()
	}
	return slices.Concat(p.give, p.take, p.last), nil
}

func checkPrincipals(grants []naming.Grant) error {
	seen := map[string]bool{}
	for _, g := range grants {
		switch {
		case g.Principal == "":
			return fmt.Errorf("%w: a grant has no principal", naming.ErrInsecureConfig)
		case g.Principal == rootUser:
			return fmt.Errorf("%w: the principal %q is etcd's administrator, who may do everything: give its services another one", naming.ErrInsecureConfig, rootUser)
		case seen[g.Principal]:
			return fmt.Errorf("%w: there are two grants for principal %q: join them", naming.ErrInsecureConfig, g.Principal)
		}
		seen[g.Principal] = true
	}
	return nil
}

// checkSelf keeps us from taking away our own right to go on: because we are a
// principal ourselves, or because access control is turned on and we are nobody.
func (a *Admin) checkSelf(grants []naming.Grant, is access) error {
	self, err := a.b.settings.principal()
	if err != nil {
		return err
	}
	listed := slices.ContainsFunc(grants, func(g naming.Grant) bool { return g.Principal == self })
	isRoot := slices.Contains(is.users[self], rootRole)
	switch {
	case isRoot && listed:
		return fmt.Errorf("%w: the principal %q is the administrator who provisions: use an administrator who owns no names", naming.ErrInsecureConfig, self)
	case !is.enabled && !isRoot && self != rootUser:
		return fmt.Errorf("%w: access control is off, and once it is on %q may not change it any more: turn it on as the user %s, with a certificate of that common name, so that nobody is locked out", naming.ErrInsecureConfig, self, rootUser)
	}
	return nil
}

// checkOff refuses a server whose access control is off where we have a password:
// it cannot be checked there, and an administrator without a password, as Plan
// adds one, could not log in.
func (a *Admin) checkOff(ctx context.Context) error {
	if a.b.login == nil {
		return nil
	}
	enabled := true
	err := a.b.ask(ctx, adminTimeout, listTry, func(ctx context.Context) error {
		resp, err := pb.NewAuthClient(a.b.client.ActiveConnection()).AuthStatus(ctx, &pb.AuthStatusRequest{}, callOptions...) // without a token
		enabled = err != nil || resp.Enabled                                                                                  // to whom it is not told it is on
		if code := status.Code(err); code == codes.Unavailable || code == codes.DeadlineExceeded {
			return err
		}
		return nil
	})
	if err == nil && !enabled {
		err = fmt.Errorf("%w: access control is off, and with a password it is turned on by hand: etcdctl user add %s, etcdctl user grant-role %s %s, etcdctl auth enable", naming.ErrInsecureConfig, rootUser, rootUser, rootRole)
	}
	return err
}

// An access is the access control of a server.
type access struct {
	enabled bool
	users   map[string][]string // the roles of each
	roles   map[string][]permission
}

// adminTimeout bounds each question and each change.
const adminTimeout = 5 * time.Second

func (a *Admin) ask(ctx context.Context, f func(context.Context, pb.AuthClient) error) error {
	return a.b.ask(ctx, adminTimeout, listTry, func(ctx context.Context) error {
		return f(ctx, a.b.auth)
	})
}

// look reads the whole access control. What vanishes meanwhile is not there.
func (a *Admin) look(ctx context.Context) (access, error) {
	is := access{users: map[string][]string{}, roles: map[string][]permission{}}
	var users, roles []string
	err := a.ask(ctx, func(ctx context.Context, auth pb.AuthClient) error {
		authStatus, err := auth.AuthStatus(ctx, &pb.AuthStatusRequest{}, callOptions...)
		if err != nil {
			return err
		}
		userList, err := auth.UserList(ctx, &pb.AuthUserListRequest{}, callOptions...)
		if err != nil {
			return err
		}
		roleList, err := auth.RoleList(ctx, &pb.AuthRoleListRequest{}, callOptions...)
		if err != nil {
			return err
		}
		is.enabled, users, roles = authStatus.Enabled, userList.Users, roleList.Roles
		return nil
	})
	for _, user := range users {
		if err == nil {
			err = a.ask(ctx, func(ctx context.Context, auth pb.AuthClient) error {
				resp, err := auth.UserGet(ctx, &pb.AuthUserGetRequest{Name: user}, callOptions...)
				if err == nil {
					is.users[user] = resp.Roles
				}
				return unless(err, rpctypes.ErrUserNotFound)
			})
		}
	}
	for _, role := range roles {
		if err == nil {
			err = a.ask(ctx, func(ctx context.Context, auth pb.AuthClient) error {
				resp, err := auth.RoleGet(ctx, &pb.AuthRoleGetRequest{Role: role}, callOptions...)
				if err != nil {
					return unless(err, rpctypes.ErrRoleNotFound)
				}
				is.roles[role] = nil
				for _, p := range resp.Perm {
					is.roles[role] = append(is.roles[role], permission{string(p.Key), string(p.RangeEnd), p.PermType})
				}
				return nil
			})
		}
	}
	return is, err
}

// A plan is what is to be done, in three parts that follow each other.
type plan struct {
	admin            *Admin
	is               access
	listed           map[string]bool // the principals of the grants
	give, take, last []naming.Change
}

// A step is a part of a change. It may be repeated.
type step func(context.Context, pb.AuthClient) error

// change makes the steps one change.
func (p *plan) change(into *[]naming.Change, do, object, detail string, steps ...step) {
	*into = append(*into, naming.Change{Do: do, Object: object, Detail: detail, Apply: func(ctx context.Context) error {
		for _, step := range steps {
			if err := p.admin.ask(ctx, step); err != nil {
				return driver.Fail(driverName, do+" "+object, naming.Name{}, err)
			}
		}
		return nil
	}})
}

// role makes the role of a grant what it should be.
func (p *plan) role(g naming.Grant) {
	role := p.admin.roles + g.Principal
	want := p.admin.b.settings.keys.permissions(g)
	has, exists := p.is.roles[role]
	if !exists {
		steps := []step{addRole(role)}
		for _, w := range want {
			steps = append(steps, grantPermission(role, w))
		}
		p.change(&p.give, "create", "role "+role, list(want), steps...)
		return
	}
	for _, w := range want {
		at := slices.IndexFunc(has, func(h permission) bool { return h.key == w.key && h.end == w.end })
		switch {
		case at < 0:
			p.change(&p.give, "change", "role "+role, "give "+w.String()+", which is missing", grantPermission(role, w))
		case has[at] == w:
		case w.kind == authpb.Permission_READWRITE:
			p.change(&p.give, "change", "role "+role, fmt.Sprintf("give %s, which is %s", w, has[at]), grantPermission(role, w))
		default:
			// The new kind replaces the old one, and may be less. Two readwrite ranges
			// may take its place, and are there by then.
			p.change(&p.take, "change", "role "+role, fmt.Sprintf("give %s, which is %s", w, has[at]), grantPermission(role, w))
		}
	}
	for _, h := range has {
		if !slices.ContainsFunc(want, func(w permission) bool { return w.key == h.key && w.end == h.end }) {
			p.change(&p.take, "change", "role "+role, "take "+h.String()+", which is too much", revokePermission(role, h))
		}
	}
}

// user makes a user have its role, and no other that gives anything below our
// root.
func (p *plan) user(user string) {
	role := p.admin.roles + user
	has, exists := p.is.users[user]
	switch {
	case !exists:
		detail := "without a password, known by the common name of its certificate, with the role " + role
		if p.admin.b.login != nil {
			detail += " (who is to have a password needs it from the start: etcdctl user add " + user + ", and then again)"
		}
		p.change(&p.give, "create", "user "+user, detail,
			addUser(user), grantRole(user, role))
	case !slices.Contains(has, role):
		p.change(&p.give, "change", "user "+user, "give the role "+role, grantRole(user, role))
	}
	for _, other := range has {
		if other != role && p.below(other) {
			p.change(&p.take, "change", "user "+user, "take the role "+other+": it gives "+p.gives(other), revokeRole(user, other))
		}
	}
}

// prune takes away what users who are not listed have below our root.
func (p *plan) prune() {
	for _, user := range slices.Sorted(maps.Keys(p.is.users)) {
		has := p.is.users[user]
		if p.listed[user] || slices.Contains(has, rootRole) {
			continue
		}
		if slices.Equal(has, []string{p.admin.roles + user}) {
			p.change(&p.take, "delete", "user "+user, "it is not in the list, and has nothing but the role "+p.admin.roles+user, deleteUser(user))
			continue
		}
		for _, role := range has {
			if p.below(role) {
				p.change(&p.take, "change", "user "+user, "take the role "+role+": it gives "+p.gives(role)+", and the user is not in the list", revokeRole(user, role))
			}
		}
	}
	for _, role := range slices.Sorted(maps.Keys(p.is.roles)) {
		if principal, ours := strings.CutPrefix(role, p.admin.roles); ours && !p.listed[principal] {
			p.change(&p.take, "delete", "role "+role, "its principal is not in the list", deleteRole(role))
		}
	}
}

// enable turns access control on. The server wants an administrator first.
func (p *plan) enable() {
	has, exists := p.is.users[rootUser]
	if !exists {
		p.change(&p.last, "create", "user "+rootUser, "the administrator: without a password, known by the common name of its certificate, with the role "+rootRole,
			addUser(rootUser), grantRole(rootUser, rootRole))
	} else if !slices.Contains(has, rootRole) {
		p.change(&p.last, "change", "user "+rootUser, "give the role "+rootRole, grantRole(rootUser, rootRole))
	}
	p.change(&p.last, "change", "access control", "turn it on: from then on nobody does what no role allows, and only "+rootUser+" changes roles",
		func(ctx context.Context, auth pb.AuthClient) error {
			_, err := auth.AuthEnable(ctx, &pb.AuthEnableRequest{}, callOptions...)
			return err
		})
}

// below says whether a role gives anything below our root.
func (p *plan) below(role string) bool {
	if role == rootRole || strings.HasPrefix(role, p.admin.roles) {
		return true
	}
	return slices.ContainsFunc(p.is.roles[role], p.touchesRoot)
}

func (p *plan) touchesRoot(has permission) bool {
	root := strings.TrimSuffix(p.admin.b.settings.keys.prefix, "names/")
	return has.touches(root, strings.TrimSuffix(root, "/")+"0") // "0" follows "/"
}

// gives says what a role gives below our root.
func (p *plan) gives(role string) string {
	if role == rootRole {
		return "everything"
	}
	has := slices.DeleteFunc(slices.Clone(p.is.roles[role]), func(h permission) bool { return !p.touchesRoot(h) })
	return list(has)
}

func list(permissions []permission) string {
	if len(permissions) == 0 {
		return "nothing"
	}
	var all []string
	for _, p := range permissions {
		all = append(all, p.String())
	}
	return strings.Join(all, ", ")
}

// unless gives err, but nil for the server's errors that say that there is
// nothing to do.
func unless(err error, done ...error) error {
	for _, d := range done {
		if isEtcd(err, d) {
			return nil
		}
	}
	return err
}

func addRole(role string) step {
	return func(ctx context.Context, auth pb.AuthClient) error {
		_, err := auth.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: role}, callOptions...)
		return unless(err, rpctypes.ErrRoleAlreadyExist)
	}
}

func grantPermission(role string, p permission) step {
	return func(ctx context.Context, auth pb.AuthClient) error {
		_, err := auth.RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{
			Name: role, Perm: &authpb.Permission{PermType: p.kind, Key: []byte(p.key), RangeEnd: []byte(p.end)},
		}, callOptions...)
		return err
	}
}

func revokePermission(role string, p permission) step {
	return func(ctx context.Context, auth pb.AuthClient) error {
		_, err := auth.RoleRevokePermission(ctx, &pb.AuthRoleRevokePermissionRequest{Role: role, Key: []byte(p.key), RangeEnd: []byte(p.end)}, callOptions...)
		return unless(err, rpctypes.ErrPermissionNotGranted, rpctypes.ErrRoleNotFound)
	}
}

func deleteRole(role string) step {
	return func(ctx context.Context, auth pb.AuthClient) error {
		_, err := auth.RoleDelete(ctx, &pb.AuthRoleDeleteRequest{Role: role}, callOptions...)
		return unless(err, rpctypes.ErrRoleNotFound)
	}
}

func addUser(user string) step {
	return func(ctx context.Context, auth pb.AuthClient) error {
		_, err := auth.UserAdd(ctx, &pb.AuthUserAddRequest{Name: user, Options: &authpb.UserAddOptions{NoPassword: true}}, callOptions...)
		return unless(err, rpctypes.ErrUserAlreadyExist)
	}
}

func deleteUser(user string) step {
	return func(ctx context.Context, auth pb.AuthClient) error {
		_, err := auth.UserDelete(ctx, &pb.AuthUserDeleteRequest{Name: user}, callOptions...)
		return unless(err, rpctypes.ErrUserNotFound)
	}
}

func grantRole(user, role string) step {
	return func(ctx context.Context, auth pb.AuthClient) error {
		_, err := auth.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: user, Role: role}, callOptions...)
		return err
	}
}

func revokeRole(user, role string) step {
	return func(ctx context.Context, auth pb.AuthClient) error {
		_, err := auth.UserRevokeRole(ctx, &pb.AuthUserRevokeRoleRequest{Name: user, Role: role}, callOptions...)
		return unless(err, rpctypes.ErrRoleNotGranted, rpctypes.ErrUserNotFound)
	}
}
