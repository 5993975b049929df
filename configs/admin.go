package configs

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rs/zerolog"

	"github.com/seed-6593ebad/skywarden/backends/consul"
	"github.com/seed-6593ebad/skywarden/backends/etcd"
	"github.com/seed-6593ebad/skywarden/naming"
)

// An Admin says as whom a server's access control is seen and changed. What is
// empty is as the file says. Paths are relative to the working directory.
type Admin struct {
	// CertFile and KeyFile are the client certificate of an administrator and its
	// private key, PEM files. Both or neither.
	CertFile, KeyFile string
	// User and PasswordFile are an administrator with a password instead, and the
	// file that it is in. Both or neither.
	User, PasswordFile string
	// TokenFile holds a management token, which is how an administrator of Consul
	// comes. It is required there.
	TokenFile string
	// TokenDir is where the tokens of Consul's principals go, PRINCIPAL.token; ""
	// means the directory of the file's own token.
	TokenDir string
	// Log gets what the driver has to say.
	Log zerolog.Logger
}

// Driver gives the name of the file's backend: "memory", "etcd" or "consul".
func (c *Config) Driver() string {
	switch {
	case c.Etcd != nil:
		return "etcd"
	case c.Consul != nil:
		return "consul"
	}
	return "memory"
}

// Root gives where on the server everything is kept: "" for the driver's default.
func (c *Config) Root() string {
	switch {
	case c.Etcd != nil:
		return c.Etcd.Root
	case c.Consul != nil:
		return c.Consul.Root
	}
	return ""
}

// Grants says what the file's allow-list gives to each of its principals, and to
// readers, who own nothing; see adapter.AllowList.Grants. A file without
// allow-list is an error.
func (c *Config) Grants(readers ...string) ([]naming.Grant, error) {
	if c.Allow == nil {
		return nil, fmt.Errorf("%s: it has no allow-list (add allow: who may own which name)", c.file)
	}
	var problems []error
	for _, reader := range readers {
		if _, err := parsePrincipal(reader); err != nil {
			problems = append(problems, fmt.Errorf("reader %w", err))
		}
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	return c.Allow.Grants(readers...), nil
}

// OpenAdmin connects to the file's server as an administrator. Whoever called it
// closes it. The memory backend has none.
func (c *Config) OpenAdmin(ctx context.Context, a Admin) (naming.Provisioner, error) {
	if c.Memory != nil {
		return nil, fmt.Errorf("%s: the memory backend is inside each process: there is no server to provision", c.file)
	}
	if (a.CertFile == "") != (a.KeyFile == "") {
		return nil, errors.New("an administrator's certificate and its key are given together, or not at all")
	}
	if (a.User == "") != (a.PasswordFile == "") {
		return nil, errors.New("an administrator's user and the file of the password are given together, or not at all")
	}
	open := c.openEtcdAdmin
	if c.Consul != nil {
		open = c.openConsulAdmin
	}
	admin, err := open(ctx, a)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.file, err)
	}
	return admin, nil
}

func (c *Config) openEtcdAdmin(ctx context.Context, a Admin) (naming.Provisioner, error) {
	cfg := etcd.AdminConfig{Config: *c.Etcd}
	cfg.Logger = a.Log
	switch {
	case a.TokenFile != "" || a.TokenDir != "":
		return nil, errors.New("an administrator of etcd has a certificate or a password, and no token")
	case a.CertFile != "" && a.User != "":
		return nil, errors.New("an administrator has a certificate or a password: give one")
	case a.CertFile != "" || a.User != "": // instead of whatever the file has
		cfg.TLS.CertFile, cfg.TLS.KeyFile, cfg.TLS.Key = a.CertFile, a.KeyFile, etcd.Secret{}
		cfg.User, cfg.PasswordFile, cfg.Password = a.User, a.PasswordFile, etcd.Secret{}
	}
	return etcd.OpenAdmin(ctx, cfg)
}

func (c *Config) openConsulAdmin(ctx context.Context, a Admin) (naming.Provisioner, error) {
	cfg := consul.AdminConfig{Config: *c.Consul, TokenDir: a.TokenDir}
	cfg.Logger = a.Log
	switch {
	case a.User != "":
		return nil, errors.New("an administrator of Consul has a token, and no password")
	case a.TokenFile == "":
		return nil, fmt.Errorf("%w: an administrator of Consul comes with a management token, and none is given", naming.ErrUnauthenticated)
	case a.TokenDir == "" && c.Consul.TokenFile == "":
		return nil, errors.New("the file's own token is in no file: say in which directory the tokens of the principals go")
	case a.TokenDir == "":
		cfg.TokenDir = filepath.Dir(c.Consul.TokenFile)
	}
	cfg.TokenFile, cfg.Token = a.TokenFile, consul.Secret{}
	if a.CertFile != "" {
		cfg.TLS.CertFile, cfg.TLS.KeyFile, cfg.TLS.Key = a.CertFile, a.KeyFile, consul.Secret{}
	}
	return consul.OpenAdmin(ctx, cfg)
}

// renderers are the drivers that write files for administrators.
var renderers = map[string]func(root string, grants []naming.Grant) ([]naming.File, error){
	"consul": consul.Render,
	"etcd":   etcd.Render,
}

// Servers are the names of the servers that Render knows.
func Servers() []string {
	var names []string
	for name := range renderers {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Render gives what OpenAdmin's Provisioner would do on a new server as files,
// for people who apply them with tools of their own. root "" is the driver's
// default.
func Render(to, root string, grants []naming.Grant) ([]naming.File, error) {
	render, known := renderers[to]
	if !known {
		return nil, fmt.Errorf("%s is no server that files can be written for (give one of: %s)", show(to), strings.Join(Servers(), ", "))
	}
	return render(root, grants)
}
