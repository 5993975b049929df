// Command skywarden runs nodes, shows what a name server holds, and holds names
// for programs that are not written with this library. `skywarden demo` shows
// what it is all for. See `skywarden --help`.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
