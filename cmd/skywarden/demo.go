package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"github.com/seed-6593ebad/skywarden"
	"github.com/seed-6593ebad/skywarden/adapter/record"
	"github.com/seed-6593ebad/skywarden/backends/memory"
	"github.com/seed-6593ebad/skywarden/backends/memory/classic"
	"github.com/seed-6593ebad/skywarden/naming"
	"github.com/seed-6593ebad/skywarden/runtime"
)

type demoCommand struct {
	Unprotected bool `help:"Show the same impostor on a name server that lets everybody register everything, as Skynet's does."`
}

// The demo's scene.
const (
	bank     = "game.bank"
	score    = "game.score"
	demoTTL  = 2 * time.Second
	demoTime = 10 * time.Second
)

// deposit is the message to the bank, and receipt is its answer.
type (
	deposit struct{ Amount int }
	receipt struct {
		From    string // the node that answered
		Balance int
	}
)

// Run tells a story and checks every sentence of it.
func (cmd *demoCommand) Run(ctx context.Context, c *console) error {
	ctx, cancel := context.WithTimeout(ctx, demoTime-time.Second)
	defer cancel()
	d := &demo{console: c, ctx: ctx}
	defer d.close()
	if cmd.Unprotected {
		d.unprotected()
	} else {
		d.protected()
	}
	if d.failed != nil {
		return hintedError{fmt.Errorf("this did not go as told: %w", d.failed), "please report it, with the output above"}
	}
	return nil
}

// protected is the story on the built-in name server.
func (d *demo) protected() {
	server := new(memory.Server)
	games := d.grant(server, "games", memory.Grant{Claim: []naming.Scope{family("game.")}, Read: []naming.Scope{naming.All()}})
	theirs := d.grant(server, "mallory", memory.Grant{Claim: []naming.Scope{naming.Only(name("mallory"))}, Read: []naming.Scope{naming.All()}})
	northBackend, southBackend := server.OpenAs(games), server.OpenAs(games)
	im := d.impostor(server.OpenAs(theirs))
	var n, s *skywarden.Node
	var bankAtNorth, bankAtSouth skywarden.Ref
	standby := make(chan error, 1)
	// A message to north as whoever knew it as the owner of the bank's name.
	late := skywarden.Message{Name: name(bank), Body: deposit{}}
	sendLate := func() error { return d.wire.Send(d.ctx, d.address(bankAtNorth), late) }

	d.printf("Two nodes and one name server that knows who may own what. The principal \"games\"\n" +
		"may own the names game.*; the principal \"mallory\" may own the name mallory.\n")

	d.scene("Mallory comes first")
	d.step("mallory's credential is good: it registers its own name, mallory", func() (string, error) {
		outcomes, err := im.strike(d.ctx, name("mallory"))
		return "", errors.Join(append(outcomes, err)...)
	})
	d.step("with nobody there yet, mallory claims "+bank+" at the name server, and is denied", func() (string, error) {
		return im.denied(d.ctx, name(bank))
	})

	d.scene("Two nodes start")
	d.step("node north runs a bank, and registers it as "+bank, func() (_ string, err error) {
		if n, err = d.node("north", northBackend); err != nil {
			return "", err
		}
		if bankAtNorth, err = openBank(n); err != nil {
			return "", err
		}
		return "", n.Register(d.ctx, bank, bankAtNorth)
	})
	d.step("node south counts scores, and registers that as "+score, func() (_ string, err error) {
		if s, err = d.node("south", southBackend); err != nil {
			return "", err
		}
		counter, err := s.Spawn(newCounter())
		if err != nil {
			return "", err
		}
		return "", s.Register(d.ctx, score, counter)
	})
	d.step("south finds "+bank+" by its name and deposits 100", func() (string, error) {
		return d.pay(s, 100, "north")
	})
	d.step("north finds "+score+" by its name and scores", func() (string, error) {
		ref, err := n.Query(d.ctx, score)
		if err != nil {
			return "", err
		}
		count, err := skywarden.Call[int](d.ctx, ref, "goal")
		if err == nil && count != 1 {
			err = fmt.Errorf("got %d, not 1", count)
		}
		return "", err
	})
	d.step("south runs a bank too, and stands by for "+bank, func() (_ string, err error) {
		if bankAtSouth, err = openBank(s); err != nil {
			return "", err
		}
		ctx, cancel := context.WithCancel(d.ctx)
		done := make(chan struct{})
		d.later(func() { cancel(); <-done })
		go func() {
			defer close(done)
			standby <- s.Register(ctx, bank, bankAtSouth, skywarden.Standby())
		}()
		return "", nil
	})

	d.scene("Mallory attacks while north owns the name")
	d.step("mallory claims "+bank+", also over exactly the entry that is there, and is denied", func() (string, error) {
		return im.denied(d.ctx, name(bank))
	})
	d.step("the deposits still go to north", func() (string, error) {
		entry, err := im.direct.Get(d.ctx, name(bank))
		if err != nil {
			return "", err
		}
		r, err := record.Decode(entry.Value)
		if err != nil {
			return "", err
		}
		late.Epoch = r.Epoch
		if err := sendLate(); err != nil {
			return "", err
		}
		return d.pay(s, 10, "north")
	})

	d.scene("North dies: nothing that it sends arrives any more")
	var died time.Time
	d.step("mallory goes on claiming until somebody owns "+bank+" again, and is denied each time", func() (string, error) {
		before := im.tried.Load()
		server.Levers().Cut(northBackend)
		d.later(func() { server.Levers().Heal(northBackend) }) // so that its node closes at once
		died = time.Now()
		for {
			if _, err := im.denied(d.ctx, name(bank)); err != nil {
				return "", err
			}
			select {
			case err := <-standby:
				return fmt.Sprintf("%d times", im.tried.Load()-before), err
			case <-time.After(10 * time.Millisecond):
			}
		}
	})
	d.step("the standby on south took over, within the lease of "+demoTTL.String()+" and 1s", func() (string, error) {
		took := time.Since(died)
		if took > demoTTL+time.Second {
			return "", fmt.Errorf("it took %s", took)
		}
		return fmt.Sprintf("after %.1fs", took.Seconds()), nil
	})
	d.step("north, which does not know that it is dead, has stopped answering as "+bank, func() (string, error) {
		err := sendLate()
		if !errors.Is(err, naming.ErrFenced) {
			return "", fmt.Errorf("a message to it gives %q", naming.Code(err))
		}
		return err.Error(), nil
	})
	d.step("the deposits go to south", func() (string, error) {
		return d.pay(s, 1, "south")
	})

	d.scene("South leaves as well")
	d.step("south gives "+bank+" up: nobody owns it", func() (string, error) {
		if err := s.Release(d.ctx, bank); err != nil {
			return "", err
		}
		if _, err := im.direct.Get(d.ctx, name(bank)); !errors.Is(err, naming.ErrNotFound) {
			return "", fmt.Errorf("the name server says %q", naming.Code(err))
		}
		return naming.Code(naming.ErrNotFound), nil
	})
	d.step("mallory claims the free name, and is denied", func() (string, error) {
		return im.denied(d.ctx, name(bank))
	})
	d.step("not one message came to mallory", func() (string, error) {
		if got := im.received.Load(); got != 0 {
			return "", fmt.Errorf("%d came", got)
		}
		return "", nil
	})
	if d.failed == nil {
		d.printf("\nAll %d attempts on %s were denied, none for the reason that the name was taken.\n"+
			"See the same impostor succeed: skywarden demo --unprotected\n", im.tried.Load()-1, bank)
	}
}

// unprotected is the story of the same impostor where nobody is asked who he is.
func (d *demo) unprotected() {
	server := classic.NewInsecureDemonstrationServer()
	im := d.impostor(server.Open())
	var n, s, e *skywarden.Node

	d.printf("The same impostor on a name server that does what Skynet's harbor does: everybody may\n" +
		"register every name, the newest registration is told to all, and no name is freed.\n")

	d.scene("Mallory comes first")
	d.step("with nobody there yet, mallory claims "+bank+", and gets it", func() (string, error) {
		return im.succeeds(d.ctx, name(bank))
	})
	d.step("node south starts and deposits 100: "+d.paint(red, "hijacked"), func() (_ string, err error) {
		if s, err = d.node("south", server.Open()); err != nil {
			return "", err
		}
		return d.hijacked(s, im, 100)
	})

	d.scene("Mallory attacks while north owns the name")
	d.step("node north runs a bank and registers it; south's deposit goes there", func() (_ string, err error) {
		if n, err = d.node("north", server.Open()); err != nil {
			return "", err
		}
		ref, err := openBank(n)
		if err != nil {
			return "", err
		}
		if err := n.Register(d.ctx, bank, ref); err != nil {
			return "", err
		}
		return d.eventually(s, 100, "north")
	})
	d.step("node east starts now, is told the first owner, and deposits 100: "+d.paint(red, "hijacked"), func() (_ string, err error) {
		if e, err = d.node("east", server.Open()); err != nil {
			return "", err
		}
		return d.hijacked(e, im, 100)
	})
	d.step("mallory claims "+bank+" over north's entry, also when north puts it back; south deposits 10: "+d.paint(red, "hijacked"), func() (string, error) {
		for before := im.received.Load(); ; {
			if _, err := im.succeeds(d.ctx, name(bank)); err != nil {
				return "", err
			}
			more, err := d.pay(s, 10, im.address.Node().String())
			if err == nil && im.received.Load() > before || d.ctx.Err() != nil {
				return more, err
			}
		}
	})

	d.scene("North dies")
	d.step("mallory claims "+bank+" once more, and gets it", func() (string, error) {
		d.closeNode(n)
		return im.succeeds(d.ctx, name(bank))
	})
	d.step("south deposits 1: "+d.paint(red, "hijacked"), func() (string, error) {
		return d.hijacked(s, im, 1)
	})
	if d.failed == nil {
		d.printf("\n%d messages to %s were hijacked. See the same impostor refused: skywarden demo\n", im.received.Load(), bank)
	}
}

// A demo is a story under way. After the first step that fails the rest is
// silent.
type demo struct {
	*console
	ctx    context.Context
	scenes int
	failed error
	wire   runtime.InProcess // between the nodes of the story
	ends   []func()          // what is to be closed, last first
}

// scene begins a new part of the story.
func (d *demo) scene(title string) {
	if d.failed != nil {
		return
	}
	d.scenes++
	d.printf("\n%s\n", d.paint(bold, fmt.Sprintf("%d. %s", d.scenes, title)))
}

// step does one thing and tells it: do gives what is to be added to the
// sentence, and the reason why it is not true.
func (d *demo) step(sentence string, do func() (string, error)) {
	if d.failed != nil {
		return
	}
	more, err := do()
	if err != nil {
		d.failed = fmt.Errorf("%s: %w", sentence, err)
		d.printf("   %s %s\n     %s\n", d.paint(red, "✗"), sentence, err)
		return
	}
	if more != "" {
		sentence += d.paint(dim, " ("+more+")")
	}
	d.printf("   %s %s\n", d.paint(green, "✓"), sentence)
}

// node starts a node that speaks to the name server through backend.
func (d *demo) node(name string, backend naming.Backend) (*skywarden.Node, error) {
	n, err := skywarden.New(d.ctx, skywarden.Config{
		Node: name, Backend: backend, Transport: &d.wire, TTL: demoTTL, Logger: zerolog.Nop(),
	})
	if err == nil {
		d.later(func() { d.closeNode(n) })
	}
	return n, err
}

func (d *demo) closeNode(n *skywarden.Node) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(d.ctx), time.Second)
	defer cancel()
	_ = n.Close(ctx) // a node whose server is away says so; that is part of the story
}

func (d *demo) later(end func()) { d.ends = append(d.ends, end) }

func (d *demo) close() {
	for _, end := range slices.Backward(d.ends) {
		end()
	}
}

// openBank starts a bank on n. It counts what it is given.
func openBank(n *skywarden.Node) (skywarden.Ref, error) {
	balance := 0
	return skywarden.Spawn(n, func(c *skywarden.Context, m deposit) error {
		balance += m.Amount
		return c.Reply(receipt{n.ID().String(), balance})
	})
}

// pay deposits amount at whoever answers to the bank's name, and demands that
// this is want.
func (d *demo) pay(client *skywarden.Node, amount int, want string) (string, error) {
	return d.deposit(client, amount, func(got receipt) error {
		if got.From != want {
			return fmt.Errorf("%s answered, not %s", got.From, want)
		}
		return nil
	})
}

// eventually deposits until want answers: a broadcast takes its time.
func (d *demo) eventually(client *skywarden.Node, amount int, want string) (string, error) {
	for {
		more, err := d.pay(client, amount, want)
		if err == nil || d.ctx.Err() != nil {
			return more, err
		}
		d.pause()
	}
}

// hijacked demands that a deposit really arrives at the impostor's service.
func (d *demo) hijacked(client *skywarden.Node, im *impostor, amount int) (string, error) {
	before := im.received.Load()
	more, err := d.eventually(client, amount, im.address.Node().String())
	if err == nil && im.received.Load() == before {
		err = errors.New("the impostor got nothing")
	}
	return more, err
}

// deposit calls the bank by its name. Directly after a change of the owner the
// client may have to ask again.
func (d *demo) deposit(client *skywarden.Node, amount int, check func(receipt) error) (string, error) {
	ref, err := client.Query(d.ctx, bank)
	if err != nil {
		return "", err
	}
	for {
		got, err := skywarden.Call[receipt](d.ctx, ref, deposit{amount})
		switch {
		case err == nil:
			return fmt.Sprintf("answered by %s, balance %d", got.From, got.Balance), check(got)
		case d.ctx.Err() != nil:
			return "", err
		}
		d.pause()
	}
}

func (d *demo) pause() {
	select {
	case <-time.After(20 * time.Millisecond):
	case <-d.ctx.Done():
	}
}

// address gives where a service is.
func (d *demo) address(ref skywarden.Ref) naming.Address {
	addr, err := ref.Address(d.ctx)
	if err != nil {
		d.failed = errors.Join(d.failed, err)
	}
	return addr
}

// grant makes a principal known to the name server.
func (d *demo) grant(server *memory.Server, principal string, g memory.Grant) memory.Credential {
	c, err := server.Grant(principal, g)
	if err != nil {
		d.failed = errors.Join(d.failed, err)
	}
	return c
}

// name and family give constants of the story; an error of theirs shows as the
// zero value, which everything refuses.
func name(s string) naming.Name {
	n, _ := naming.ParseName(s)
	return n
}

func family(s string) naming.Scope {
	f, _ := naming.ParseFamily(s)
	return f
}
