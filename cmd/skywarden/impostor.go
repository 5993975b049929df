package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/seed-6593ebad/skywarden/adapter/record"
	"github.com/seed-6593ebad/skywarden/naming"
	"github.com/seed-6593ebad/skywarden/runtime"
)

// An impostor writes to the name server itself, past every adapter, with a valid
// credential of its own and records without a fault. Where others believe them,
// it takes their messages: it is a node that asks nobody whether it may.
type impostor struct {
	direct   naming.Backend
	address  naming.Address
	lease    naming.Lease
	tried    atomic.Int64 // attempts to get a name
	received atomic.Int64 // messages that were meant for somebody else
}

// impostor puts an impostor on stage.
func (d *demo) impostor(direct naming.Backend) *impostor {
	im := &impostor{direct: direct}
	// On no network: the messages of the story stay in this process.
	address, err := naming.ParseAddress("mallory@127.66.6.6:7666/1")
	if err == nil {
		im.address = address
		var unbind func()
		if unbind, err = d.wire.Bind(address.Endpoint(), im); err == nil {
			d.later(unbind)
		}
	}
	if err == nil {
		im.lease, err = direct.Lease(d.ctx, demoTTL)
	}
	if err != nil {
		d.failed = errors.Join(d.failed, fmt.Errorf("the impostor: %w", err))
	}
	d.later(func() { _ = direct.Close() }) // nothing depends on how it leaves
	return im
}

// Receive implements runtime.Receiver: it answers whatever comes.
func (im *impostor) Receive(_ context.Context, _ naming.Address, m runtime.Message) error {
	im.received.Add(1)
	if m.Reply != nil {
		m.Reply.Reply(m.Session, m.Epoch, receipt{From: im.address.Node().String()}, nil)
	}
	return nil
}

// strike tries everything to get name: a claim as if it was free, and a claim
// over exactly the entry that is there. It gives the outcome of each try; nil is
// a success.
func (im *impostor) strike(ctx context.Context, name naming.Name) ([]error, error) {
	there, err := im.direct.Get(ctx, name)
	if err != nil && !errors.Is(err, naming.ErrNotFound) {
		return nil, fmt.Errorf("the impostor may read: %w", err)
	}
	epoch := uint64(time.Now().UnixMilli())
	if r, err := record.Decode(there.Value); err == nil {
		epoch = max(epoch, r.Epoch+1)
	}
	value, err := record.Encode(record.Record{Address: im.address, Epoch: epoch})
	if err != nil {
		return nil, err
	}
	im.tried.Add(1)
	overs := []naming.Revision{0}
	if there.Revision != 0 {
		overs = append(overs, there.Revision)
	}
	var outcomes []error
	for _, over := range overs {
		_, err := im.lease.Claim(ctx, name, value, over)
		outcomes = append(outcomes, err)
	}
	return outcomes, nil
}

// denied strikes, and demands that the name server refuses because it knows who
// is asking: not because the name happens to be taken.
func (im *impostor) denied(ctx context.Context, name naming.Name) (string, error) {
	outcomes, err := im.strike(ctx, name)
	if err != nil {
		return "", err
	}
	for _, outcome := range outcomes {
		if !errors.Is(outcome, naming.ErrDenied) || errors.Is(outcome, naming.ErrTaken) {
			return "", fmt.Errorf("the name server said %q, not %q", naming.Code(outcome), naming.Code(naming.ErrDenied))
		}
	}
	return outcomes[0].Error(), nil
}

// succeeds strikes, and demands that nothing stopped it.
func (im *impostor) succeeds(ctx context.Context, name naming.Name) (string, error) {
	outcomes, err := im.strike(ctx, name)
	return "", errors.Join(append(outcomes, err)...)
}
