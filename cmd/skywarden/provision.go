package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/seed-6593ebad/skywarden/configs"
	"github.com/seed-6593ebad/skywarden/naming"
)

type provisionCommand struct {
	configFlag
	To                string        `placeholder:"SERVER" help:"The server that is meant, etcd or consul: a mistake is refused. Default: that of the file."`
	Plan              bool          `help:"Only show what would be changed. Exit code: 0 nothing, 5 something."`
	Prune             bool          `help:"Also take away what principals have who are not in the allow-list."`
	Reader            []string      `sep:"none" placeholder:"PRINCIPAL" help:"Somebody who owns nothing and may look up what everybody may, such as a client. Can be repeated."`
	AdminCert         string        `placeholder:"FILE" help:"The client certificate of an administrator (etcd: of a user with the role root). Default: that of the file."`
	AdminKey          string        `placeholder:"FILE" help:"Its private key."`
	AdminUser         string        `placeholder:"USER" help:"etcd: an administrator who has a password instead of a certificate."`
	AdminPasswordFile string        `placeholder:"FILE" help:"The file that the password is in. Nobody else may read it."`
	AdminTokenFile    string        `placeholder:"FILE" env:"SKYWARDEN_ADMIN_TOKEN_FILE" help:"consul: the file that an administrator's token is in (acl:write). Nobody else may read it. Default: the token of the file."`
	TokenDir          string        `placeholder:"DIR" help:"consul: where the principals' tokens go, each into PRINCIPAL.token, which only its owner may read. Default: where the file's own token is."`
	Timeout           time.Duration `default:"60s" help:"How long all of it may take."`
}

// Run makes the server's access control what the allow-list says. It is
// idempotent, and looks again when it is done.
func (cmd *provisionCommand) Run(ctx context.Context, c *console) (err error) {
	ctx, cancel := context.WithTimeout(ctx, cmd.Timeout)
	defer cancel()
	cfg, err := cmd.loadForAdmin()
	if err != nil {
		return err
	}
	if cmd.To != "" && cmd.To != cfg.Driver() {
		return usageError{fmt.Errorf("--to %s: the backend of %s is %s", cmd.To, cmd.Config, cfg.Driver())}
	}
	if (cmd.AdminCert == "") != (cmd.AdminKey == "") {
		return usageError{errors.New("--admin-cert and --admin-key are given together")}
	}
	if (cmd.AdminUser == "") != (cmd.AdminPasswordFile == "") {
		return usageError{errors.New("--admin-user and --admin-password-file are given together")}
	}
	grants, err := cfg.Grants(cmd.Reader...)
	if err != nil {
		return err
	}
	admin, err := cfg.OpenAdmin(ctx, configs.Admin{
		CertFile: cmd.AdminCert, KeyFile: cmd.AdminKey, User: cmd.AdminUser, PasswordFile: cmd.AdminPasswordFile,
		TokenFile: cmd.AdminTokenFile, TokenDir: cmd.TokenDir, Log: cfg.Logger(c.err),
	})
	if err != nil {
		return asAdmin(err)
	}
	defer closing(&err, admin.Close)
	return asAdmin(cmd.provision(ctx, c, admin, grants))
}

func (cmd *provisionCommand) provision(ctx context.Context, c *console, admin naming.Provisioner, grants []naming.Grant) error {
	changes, err := admin.Plan(ctx, grants, cmd.Prune)
	if err != nil {
		return err
	}
	for _, change := range changes {
		c.printf("%s\n", describe(change))
		if cmd.Plan {
			continue
		}
		if err := change.Apply(ctx); err != nil {
			return hintedError{err, "what was done so far stays done, and nobody lost a right that he is to have: run it again"}
		}
	}
	if !cmd.Prune {
		if err := cmd.showOthers(ctx, c, admin, grants, changes); err != nil {
			return err
		}
	}
	switch {
	case len(changes) == 0:
		c.printf("nothing to change: the server gives %s what the allow-list says\n", plural(len(grants), "principal"))
		return nil
	case cmd.Plan:
		return pendingError{hintedError{fmt.Errorf("%s pending", plural(len(changes), "change")), "without --plan they are made"}}
	}
	left, err := admin.Plan(ctx, grants, cmd.Prune)
	if err != nil {
		return fmt.Errorf("look again: %w", err)
	}
	if len(left) > 0 {
		return hintedError{fmt.Errorf("the server differs again: %s", describe(left[0])), "does somebody else change it at the same time?"}
	}
	c.printf("%s made: the server gives %s what the allow-list says\n", plural(len(changes), "change"), plural(len(grants), "principal"))
	return nil
}

// showOthers shows what only --prune would change, so that it is not overlooked.
func (cmd *provisionCommand) showOthers(ctx context.Context, c *console, admin naming.Provisioner, grants []naming.Grant, shown []naming.Change) error {
	all, err := admin.Plan(ctx, grants, true)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, change := range shown {
		known[describe(change)] = true
	}
	for _, change := range all {
		if line := describe(change); !known[line] {
			c.printf("only with --prune: %s\n", line)
		}
	}
	return nil
}

// describe is one line about a change.
func describe(c naming.Change) string {
	return printable(fmt.Sprintf("%s %s: %s", c.Do, c.Object, c.Detail))
}

// asAdmin says who was needed where the server refuses somebody.
func asAdmin(err error) error {
	if errors.Is(err, naming.ErrDenied) || errors.Is(err, naming.ErrUnauthenticated) {
		return hintedError{err, "give an administrator's credential: --admin-cert and --admin-key, --admin-user and --admin-password-file, or --admin-token-file"}
	}
	return err
}

// A pendingError is about changes that --plan shows.
type pendingError struct{ error }

func (e pendingError) Unwrap() error { return e.error }
