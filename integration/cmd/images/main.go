// Command images makes the server images of the integration tests ready and
// says which will be used. Without a Docker engine it makes the same programs
// ready to run as processes.
//
//	go run ./cmd/images          build what is missing
//	go run ./cmd/images -mode    only say how the servers would run
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/seed-6593ebad/skywarden/integration/harness"
)

func main() {
	modeOnly := flag.Bool("mode", false, "only say how the servers would run")
	flag.Parse()
	if err := run(*modeOnly); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func run(modeOnly bool) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	mode, err := harness.CurrentMode()
	if err != nil {
		return err
	}
	fmt.Println("images:", mode)
	if modeOnly {
		return nil
	}
	for _, image := range harness.Images() {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Minute)
		origin, err := image.Prepare(ctx)
		cancel()
		if err != nil {
			return err
		}
		fmt.Println("images:", origin)
	}
	return nil
}
