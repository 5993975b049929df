package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/seed-6593ebad/skywarden/configs"
	"github.com/seed-6593ebad/skywarden/naming"
)

// Exit codes. Scripts depend on them.
const (
	exitOK       = 0
	exitFailure  = 1
	exitUsage    = 2
	exitNotFound = 3
	exitDenied   = 4
	exitPending  = 5
)

// commandLine is every command and flag, in the order of the help.
type commandLine struct {
	Demo      demoCommand      `cmd:"" help:"Show two nodes, a standby and an impostor on the built-in name server. Ends by itself within 10 s."`
	Node      nodeCommand      `cmd:"" help:"Run a node with the services that a configuration file names, until interrupted."`
	Ls        lsCommand        `cmd:"" help:"List the names that a name server holds."`
	Get       getCommand       `cmd:"" help:"Show where a name is answered."`
	Watch     watchCommand     `cmd:"" help:"Show names as they are taken and become free, until interrupted."`
	Hold      holdCommand      `cmd:"" help:"Claim a name for a service that is not written with this library, until interrupted."`
	Check     checkCommand     `cmd:"" help:"Check a configuration file, the name server, and that it lets this node do what it should, and nothing else."`
	Provision provisionCommand `cmd:"" help:"Give a name server's access control what the allow-list of a configuration file says."`
	Render    renderCommand    `cmd:"" help:"Write what provision would do as files, for tools of your own."`
	Version   versionCommand   `cmd:"" help:"Show the version of this program."`
}

const description = `Names that only the service that is entitled to them can answer.

Exit codes: 0 ok, 1 failure, 2 usage, 3 not found, 4 denied, 5 changes pending.`

// run executes one command line and gives the exit code. It ends when ctx does.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var line commandLine
	helped := false
	parser, err := kong.New(&line,
		kong.Name("skywarden"), kong.Description(description),
		kong.Writers(stdout, stderr),
		kong.Exit(func(int) { helped = true }), // --help was asked for and printed
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}))
	if err != nil {
		return fail(stderr, err)
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	parsed, err := parser.Parse(args)
	switch {
	case helped:
		return exitOK
	case err != nil:
		return fail(stderr, usageError{err})
	}
	parsed.BindTo(ctx, (*context.Context)(nil))
	if err := parsed.Run(newConsole(stdout, stderr)); err != nil {
		return fail(stderr, err)
	}
	return exitOK
}

// A usageError is a mistake in the command line.
type usageError struct{ error }

// A hintedError says what the user can do about an error, where the kind of
// the error alone does not say it.
type hintedError struct {
	error
	hint string
}

func (e hintedError) Unwrap() error { return e.error }

// fail prints err and its hint, and gives the exit code. Errors that were joined
// have a line each.
func fail(stderr io.Writer, err error) int {
	for line := range strings.Lines(err.Error()) {
		_, _ = fmt.Fprintln(stderr, "skywarden: "+strings.TrimSuffix(line, "\n"))
	}
	if hint := hintFor(err); hint != "" {
		_, _ = fmt.Fprintln(stderr, "hint: "+hint)
	}
	return exitCode(err)
}

func exitCode(err error) int {
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	if _, ok := errors.AsType[pendingError](err); ok {
		return exitPending
	}
	switch naming.Code(err) {
	case "ok":
		return exitOK
	case "name_invalid":
		return exitUsage
	case "not_found":
		return exitNotFound
	case "denied", "unauthenticated", "name_not_allowed", "address_not_allowed":
		return exitDenied
	}
	return exitFailure
}

func hintFor(err error) string {
	if hinted, ok := errors.AsType[hintedError](err); ok {
		return hinted.hint
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return "see skywarden --help"
	}
	if _, ok := errors.AsType[*configs.FileError](err); ok {
		return "configs/memory.yaml, configs/etcd.yaml and configs/consul.yaml have every key"
	}
	switch naming.Code(err) {
	case "not_found":
		return "skywarden ls lists the names that are held; with --wait, get waits for the name"
	case "taken":
		return "a standby waits until the name is free: hold --standby, or standby: true in the configuration file"
	case "unauthenticated":
		return "the server does not accept our certificate, password or token: see backend in the configuration file; skywarden check says more"
	case "denied":
		return "the server's access control does not allow it: skywarden check says what is wrong, skywarden provision mends it"
	case "name_not_allowed", "address_not_allowed":
		return "see allow in the configuration file: who may own or look up the name, and from which addresses"
	case "unavailable":
		return "is the name server up, and are its endpoints in the configuration file right?"
	}
	return ""
}
