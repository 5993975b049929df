package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/seed-6593ebad/skywarden"
	"github.com/seed-6593ebad/skywarden/configs"
	"github.com/seed-6593ebad/skywarden/naming"
)

type nodeCommand struct {
	configFlag
}

// Run runs the services of the file until ctx ends. A name that is taken or not
// allowed ends it; a name server that cannot be reached does not: then it goes
// on trying.
func (cmd *nodeCommand) Run(ctx context.Context, c *console) (err error) {
	cfg, err := cmd.load()
	if err != nil {
		return err
	}
	log := cfg.Logger(c.err)
	node, err := cfg.Open(ctx, func(sc *skywarden.Config) { sc.Logger = log })
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer closing(&err, func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbye)
		defer cancel()
		return node.Close(ctx)
	})

	var standbys []string
	for _, s := range cfg.Services {
		ref, err := node.Spawn(serviceKinds[s.Kind]())
		if err != nil {
			return fmt.Errorf("start %s: %w", s.Name, err)
		}
		if s.Standby {
			standbys = append(standbys, s.Name.String())
			wg.Go(func() {
				if err := node.Register(ctx, s.Name.String(), ref, skywarden.Standby()); err != nil {
					cancel(err)
				}
			})
		} else if err := register(ctx, node, s, ref, log); err != nil {
			if ctx.Err() != nil {
				break // interrupted while the name server was away
			}
			return err
		}
	}
	if ctx.Err() == nil {
		ready := fmt.Sprintf("node %s is ready at %s: %s", cfg.Node, cfg.Advertise, plural(len(cfg.Services), "service"))
		if len(standbys) > 0 {
			ready += ", standing by for " + strings.Join(standbys, ", ")
		}
		c.printf("%s\n", ready)
	}
	<-ctx.Done()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// register claims the name of a service. While the name server cannot be
// reached it tries again.
func register(ctx context.Context, node *skywarden.Node, s configs.Service, ref skywarden.Ref, log zerolog.Logger) error {
	const pause = time.Second
	for {
		err := node.Register(ctx, s.Name.String(), ref)
		if !errors.Is(err, naming.ErrUnavailable) && !errors.Is(err, naming.ErrOutcomeUnknown) {
			return err
		}
		log.Warn().Stringer("name", s.Name).Err(err).Dur("again_in", pause).Msg("name server cannot be reached")
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
