package configs

import (
	"cmp"
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
	// User and PasswordFile are an administrator of etcd with a password instead, and
	// the file that it is in. Both or neither.
	User, PasswordFile string
	// TokenFile has the token of an administrator of Consul.
	TokenFile string
	// TokenDir is where Consul's tokens for the principals go, PRINCIPAL.token. Empty:
	// the directory of the file's own token, or else of the file.
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
	var problems []error
	if (a.CertFile == "") != (a.KeyFile == "") {
		problems = append(problems, errors.New("an administrator's certificate and its key are given together, or not at all"))
	}
	if (a.User == "") != (a.PasswordFile == "") {
		problems = append(problems, errors.New("an administrator's user and the file of the password are given together, or not at all"))
	}
	if c.Etcd != nil && (a.TokenFile != "" || a.TokenDir != "") {
		problems = append(problems, errors.New("etcd knows no tokens: give an administrator's certificate, or a user and a password"))
	}
	if c.Etcd != nil && a.CertFile != "" && a.User != "" {
		problems = append(problems, errors.New("an administrator has a certificate or a password: give one"))
	}
	if c.Consul != nil && a.User != "" {
		problems = append(problems, errors.New("consul has no users: give the file of an administrator's token"))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	var admin naming.Provisioner
	var err error
	if c.Consul != nil {
		admin, err = consul.OpenAdmin(ctx, c.consulAdmin(a))
	} else {
		admin, err = etcd.OpenAdmin(ctx, c.etcdAdmin(a))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.file, err)
	}
	return admin, nil
}

func (c *Config) etcdAdmin(a Admin) etcd.AdminConfig {
	cfg := etcd.AdminConfig{Config: *c.Etcd}
	cfg.Logger = a.Log
	if a.CertFile != "" || a.User != "" { // instead of whatever the file has
		cfg.TLS.CertFile, cfg.TLS.KeyFile, cfg.TLS.Key = a.CertFile, a.KeyFile, etcd.Secret{}
		cfg.User, cfg.PasswordFile, cfg.Password = a.User, a.PasswordFile, etcd.Secret{}
	}
	return cfg
}

func (c *Config) consulAdmin(a Admin) consul.AdminConfig {
	cfg := consul.AdminConfig{Config: *c.Consul, TokenDir: a.TokenDir}
	if cfg.TokenDir == "" {
		cfg.TokenDir = filepath.Dir(cmp.Or(cfg.TokenFile, c.file))
	}
	cfg.Logger = a.Log
	if a.CertFile != "" {
		cfg.TLS.CertFile, cfg.TLS.KeyFile, cfg.TLS.Key = a.CertFile, a.KeyFile, consul.Secret{}
	}
	if a.TokenFile != "" {
		cfg.TokenFile, cfg.Token = a.TokenFile, consul.Secret{}
	}
	return cfg
}

// renderers are the drivers that write files for administrators.
var renderers = map[string]func(root string, grants []naming.Grant) ([]naming.File, error){
	"consul": func(root string, grants []naming.Grant) ([]naming.File, error) {
		return consul.Render(strings.TrimPrefix(root, "/"), grants)
	},
	"etcd": func(root string, grants []naming.Grant) ([]naming.File, error) {
		if root != "" && !strings.HasPrefix(root, "/") { // one of Consul's
			root = "/" + root
		}
		return etcd.Render(root, grants)
	},
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
