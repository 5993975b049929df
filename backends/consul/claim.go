package consul

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/seed-6593ebad/skywarden/internal/driver"
	"github.com/seed-6593ebad/skywarden/naming"
)

// Deadlines of writes: of one try, of one that reached no server, of one that a
// lock delay holds back, and of a read that clears up what happened.
const (
	writeTry     = 1500 * time.Millisecond
	writeTimeout = 3 * time.Second
	readTimeout  = 2500 * time.Millisecond
	readTry      = 800 * time.Millisecond
	// The lock delay of our own sessions is 1 ms; that of others may be 15 s.
	delayPause    = 5 * time.Millisecond
	maxDelayPause = 250 * time.Millisecond
)

// Put implements driver.Session.
//
// What is free is claimed by ?acquire: exclusive, and one write. What this lease
// holds is written by ?cas, which leaves the session on the key; it names the
// revision that this lease wrote, so nobody else can have written in between.
// What somebody else holds is deleted by ?cas, and then acquired: whoever comes
// between has the name. (?acquire and ?cas in one request are refused.)
//
// Each write carries a random number in the key's flags. So it is never the same
// as what is there, which Consul would not give a new index; and an answer that
// was lost is cleared up by reading: what carries our number and our session is
// ours.
func (s *session) Put(ctx context.Context, slot *driver.Slot, value []byte, guard driver.Guard) error {
	p := &put{session: s, slot: slot, pair: &api.KVPair{
		Key: s.b.settings.keys.of(slot.Name), Value: value, Session: s.id,
		Flags: rand.Uint64() | 1, //nolint:gosec // not 0, which is not sent; it is no secret
	}}
	revision := slot.Revision()
	switch {
	case guard.Free && revision != 0:
		// Our own lock would let us acquire it once more.
		there, err := s.read(ctx, slot)
		switch {
		case err != nil:
			return err
		case s.holds(there):
			return taken(slot.Name, there)
		}
		slot.Hold(0, nil)
		return p.acquire(ctx)
	case guard.Free:
		return p.acquire(ctx)
	case revision == guard.Revision && revision != 0:
		return p.swap(ctx, guard.Revision)
	}
	return p.replace(ctx, guard)
}

// A put is one call of Put.
type put struct {
	*session
	slot  *driver.Slot
	pair  *api.KVPair
	doubt bool // a try was not answered, and may have taken effect or may still
}

// acquire claims what nobody holds. That nobody holds it and we may not have it
// means that a session that held it has just ended: a lock delay holds it back.
func (p *put) acquire(ctx context.Context) error {
	start, pause := time.Now(), delayPause
	for {
		done, err := p.write(ctx, func(client *api.Client, options *api.WriteOptions) (bool, error) {
			done, _, err := client.KV().Acquire(p.pair, options)
			return done, err
		})
		if err != nil {
			return err
		}
		if p.doubt {
			p.slot.Stray()
		}
		there, err := p.look(ctx, done)
		switch {
		case err != nil:
			return err
		case p.isOurs(there):
			return p.hold(there)
		case done:
			return p.lost(there)
		case there != nil && there.Session != "":
			return p.refused(there)
		case time.Since(start) > writeTimeout:
			return fmt.Errorf("%w: nobody holds the name, and the lock delay of who held it is not over", naming.ErrUnavailable)
		}
		if err := driver.Pause(ctx, pause); err != nil {
			return fmt.Errorf("%w: nobody holds the name, and the lock delay of who held it is not over", naming.ErrUnavailable)
		}
		pause = min(2*pause, maxDelayPause)
	}
}

// swap writes what this lease holds at exactly this revision.
func (p *put) swap(ctx context.Context, revision naming.Revision) error {
	pair := *p.pair
	pair.ModifyIndex = uint64(revision)
	done, err := p.write(ctx, func(client *api.Client, options *api.WriteOptions) (bool, error) {
		done, _, err := client.KV().CAS(&pair, options)
		return done, err
	})
	if err != nil {
		return err
	}
	there, err := p.look(ctx, done)
	switch {
	case err != nil:
		return err
	case p.isOurs(there):
		return p.hold(there)
	case done:
		return p.lost(there)
	}
	return p.refused(there)
}

// replace takes the place of exactly this revision, which this lease does not
// hold as far as it knows. It may all the same: an acquire of ours that landed
// late has written over what came after it, or the restore of a snapshot has
// given back what was there before.
func (p *put) replace(ctx context.Context, guard driver.Guard) error {
	// Looked at before, because to delete what is not there succeeds.
	there, err := p.read(ctx, p.slot)
	switch {
	case err != nil:
		return err
	case there == nil || naming.Revision(there.ModifyIndex) != guard.Revision:
		return p.refuse(ctx, there)
	case p.holds(there):
		p.slot.Hold(guard.Revision, there.Value)
		return p.swap(ctx, guard.Revision)
	case guard.Own:
		return p.refuse(ctx, there)
	}
	done, err := p.write(ctx, deletion(p.pair.Key, guard.Revision))
	if err != nil {
		return err
	}
	p.doubt = false // a deletion that lands late finds another revision
	if !done {
		if there, err = p.read(ctx, p.slot); err != nil {
			return err
		}
		if there != nil {
			return p.refused(there)
		}
	}
	return p.acquire(ctx)
}

// refuse is refused for where no write was sent yet: that we are not allowed to
// write at all goes before what is there. So one is sent that cannot take effect:
// no index is that high.
func (p *put) refuse(ctx context.Context, there *api.KVPair) error {
	if _, _, err := p.b.change(ctx, deletion(p.pair.Key, 1<<63-1)); err != nil {
		return err
	}
	return p.refused(there)
}

func deletion(key string, revision naming.Revision) func(*api.Client, *api.WriteOptions) (bool, error) {
	return func(client *api.Client, options *api.WriteOptions) (bool, error) {
		done, _, err := client.KV().DeleteCAS(&api.KVPair{Key: key, ModifyIndex: uint64(revision)}, options)
		return done, err
	}
}

// write sends one write until it is answered.
func (p *put) write(ctx context.Context, do func(*api.Client, *api.WriteOptions) (bool, error)) (done bool, err error) {
	done, doubt, err := p.b.change(ctx, do)
	p.doubt = p.doubt || doubt
	if errors.Is(err, naming.ErrInsecureConfig) {
		// That is said after the fact: the server has done it. It goes with the lease.
		p.lease.Lose(fmt.Errorf("%w: it was ended, because a write of %s went to a server that is not safe: %w", naming.ErrLeaseLost, p.slot.Name, err))
	}
	if err != nil && p.doubt && !errors.Is(err, naming.ErrLeaseLost) {
		err = unknown(err)
	}
	return done, err
}

// look reads what is there after a write. After one that took effect it must not
// fail: what the revision is would not be known.
func (p *put) look(ctx context.Context, done bool) (*api.KVPair, error) {
	there, err := p.read(ctx, p.slot)
	if err != nil && (done || p.doubt) {
		err = unknown(err)
	}
	return there, err
}

func unknown(err error) error {
	return fmt.Errorf("%w: %v", naming.ErrOutcomeUnknown, err) //nolint:errorlint // it is not "unavailable": the lease will go
}

func (p *put) isOurs(there *api.KVPair) bool { return p.holds(there) && there.Flags == p.pair.Flags }

func (p *put) hold(there *api.KVPair) error {
	p.slot.Hold(naming.Revision(there.ModifyIndex), p.pair.Value)
	return nil
}

// lost is about a write that took effect and is not there any more: the session
// has just ended, or somebody took the name or wrote over it at once. Who takes
// one name must not cost us the lease, and so all others: nothing of ours is
// left, unless our session still has the entry or a try is on its way.
func (p *put) lost(there *api.KVPair) error {
	if p.doubt || p.holds(there) {
		return fmt.Errorf("%w: what was written was gone a moment later", naming.ErrOutcomeUnknown)
	}
	return p.refused(there)
}

func (p *put) refused(there *api.KVPair) error {
	if !p.holds(there) {
		p.slot.Hold(0, nil)
	}
	return taken(p.slot.Name, there)
}

func taken(name naming.Name, there *api.KVPair) error {
	if there == nil {
		return &naming.TakenError{Entry: naming.Entry{Name: name}}
	}
	return &naming.TakenError{Entry: entry(name, there)}
}

// read is not get: the end of ctx, which is the driver's own, must not look like the
// end of a caller's.
func (s *session) read(ctx context.Context, slot *driver.Slot) (pair *api.KVPair, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	err = s.b.again(ctx, readTry, func(ctx context.Context, client *api.Client) (err error) {
		pair, _, err = read(client, s.b.settings.keys.of(slot.Name), s.b.reading(ctx))
		return err
	})
	return pair, err
}

// holds says whether the entry is this lease's.
func (s *session) holds(there *api.KVPair) bool { return there != nil && there.Session == s.id }

// Remove implements driver.Session.
func (s *session) Remove(ctx context.Context, slot *driver.Slot) error {
	key := s.b.settings.keys.of(slot.Name)
	for revision := slot.Revision(); ; {
		if revision != 0 {
			done, _, err := s.b.change(ctx, deletion(key, revision))
			if err != nil {
				return err
			}
			if done {
				break
			}
		}
		there, err := s.read(ctx, slot)
		switch {
		case err != nil:
			return err
		case !s.holds(there):
			slot.Hold(0, nil)
			return nil
		}
		revision = naming.Revision(there.ModifyIndex)
	}
	slot.Hold(0, nil)
	return nil
}
