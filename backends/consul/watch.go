package consul

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/seed-6593ebad/skywarden/internal/driver"
	"github.com/seed-6593ebad/skywarden/naming"
)

// Times of queries.
const (
	listTimeout = 5 * time.Second
	// queryWait is how long a server lets a query wait at most; it adds up to a
	// sixteenth. A query's token is looked at when it begins, so that this is also
	// how long a right that was taken away can still be used: 60 s are promised.
	queryWait = 45 * time.Second
	// A query over a prefix returns all of it at each change, and one over a prefix
	// without keys at each change of anything. So there is a pause between two of
	// them, and a longer one as long as nothing of ours has changed.
	minRound = 100 * time.Millisecond
	maxRound = 2 * time.Second
	// moveWithin spreads the load when all watches ask again.
	moveWithin = 500 * time.Millisecond
)

// Watch implements naming.Backend: a query that waits, over HTTP/2, for each
// watch. That of one name returns when this name changes, whatever others there
// are. That of a family or of all names returns everything in it at each change:
// it is for listings, and for few names.
func (b *Backend) Watch(ctx context.Context, scope naming.Scope) iter.Seq2[naming.Event, error] {
	q := query{backend: b}
	if name, only := scope.Name(); only {
		q.name, q.key = name, b.settings.keys.of(name)
	} else {
		q.key = b.settings.keys.family(scope)
	}
	return b.life.Watch(ctx, scope, q.follow)
}

// A query asks what is under one name, or under a prefix.
type query struct {
	backend *Backend
	key     string
	name    naming.Name // zero for a prefix
}

// An answer is what a server says to a query.
type answer struct {
	entries []naming.Entry
	index   uint64
	err     error
}

// follow reads what is there, and then waits for each next state, until something
// breaks. It reads anew after every break, and when the index falls or stays:
// only so a restored snapshot is seen.
func (q query) follow(ctx context.Context, t *driver.Teller) error {
	post, err := q.backend.hub.join(ctx)
	if err != nil {
		return err
	}
	defer q.backend.hub.leave(post)
	index, round := uint64(0), minRound
	for {
		a, err := q.await(ctx, t, post, index)
		switch {
		case err != nil || t.Stopped():
			return err
		case index != 0 && a.index <= index:
			// Nothing new for queryWait; or a restored snapshot, at which waiting queries
			// are sent home with what they knew. They would wait for a higher index.
			index = 0
			continue
		}
		index = a.index
		before := t.Told()
		if !t.Listing(a.entries) {
			return nil
		}
		if !q.name.IsZero() {
			continue
		}
		if round = min(2*round, maxRound); t.Told() != before {
			round = minRound
		}
		if err := q.rest(ctx, t, post, round+rand.N(round/4)); err != nil || t.Stopped() { //nolint:gosec // spreads load
			return err
		}
	}
}

// await asks once, and says meanwhile that the server is alive. It asks again
// when somebody else leads: a follower may go on waiting for who led before.
func (q query) await(ctx context.Context, t *driver.Teller, post *post, index uint64) (answer, error) {
	for {
		_, moved := post.state()
		asking, cancel := context.WithCancel(ctx)
		result, over := make(chan answer, 1), make(chan struct{})
		go func() {
			defer close(over)
			result <- q.ask(asking, post.client, index)
		}()
		a, again, err := q.listen(ctx, t, post, result, moved)
		cancel()
		<-over
		// Whether a token that is not known has been replaced is decided by the post.
		if unknown := errors.Is(err, naming.ErrUnauthenticated) && post.ctx.Err() == nil; !again && !unknown {
			return a, err
		}
		if err := q.rest(ctx, t, post, rand.N(moveWithin)); err != nil || t.Stopped() { //nolint:gosec // spreads load
			return answer{}, err
		}
	}
}

// listen waits for an answer. again says that it should not be waited for any
// longer.
func (q query) listen(ctx context.Context, t *driver.Teller, post *post, result <-chan answer, moved <-chan struct{}) (a answer, again bool, err error) {
	alive := time.NewTicker(driver.AliveEvery / 5)
	defer alive.Stop()
	for {
		select {
		case a = <-result:
			return a, false, a.err
		case <-moved:
			return a, true, nil
		case <-post.over:
			return a, false, post.err
		case <-ctx.Done():
			return a, false, ctx.Err()
		case <-alive.C:
			if heard, _ := post.state(); t.Synced() && !t.Alive(heard) {
				return a, false, nil
			}
		}
	}
}

// rest waits, and says meanwhile that the server is alive.
func (q query) rest(ctx context.Context, t *driver.Teller, post *post, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-post.over:
		return post.err
	case <-ctx.Done():
		return ctx.Err()
	}
	if heard, _ := post.state(); t.Synced() {
		t.Alive(heard)
	}
	return nil
}

// ask asks a server for the state after index; 0 is the state now.
func (q query) ask(ctx context.Context, client *api.Client, index uint64) answer {
	options := q.backend.reading(ctx)
	limit := listTimeout
	if index != 0 {
		options.WaitIndex, options.WaitTime = index, queryWait
		limit = queryWait + queryWait/8
	}
	within, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	options = options.WithContext(within)
	var a answer
	var err error
	if q.name.IsZero() {
		a, err = q.list(client, options)
	} else {
		a, err = q.get(client, options)
	}
	a.err = translate(err)
	return a
}

func (q query) get(client *api.Client, options *api.QueryOptions) (answer, error) {
	pair, index, err := read(client, q.key, options)
	if err != nil || pair == nil {
		return answer{index: index}, err
	}
	return answer{index: index, entries: []naming.Entry{entry(q.name, pair)}}, nil
}

// list reads all keys below the prefix. Consul leaves out what we may not read,
// so that a forbidden prefix looks like an empty one. Therefore a key is asked for
// that no name has: who may not read that may not read the family.
func (q query) list(client *api.Client, options *api.QueryOptions) (answer, error) {
	probe := *options
	probe.WaitIndex, probe.WaitTime = 0, 0
	_, now, err := read(client, q.key+"-", (&probe).WithContext(options.Context()))
	if err != nil {
		return answer{}, err
	}
	if now < options.WaitIndex {
		// The index of all keys has fallen: a snapshot was restored while no query was
		// waiting.
		options.WaitIndex, options.WaitTime = 0, 0
	}
	pairs, meta, err := client.KV().List(q.key, options)
	switch {
	case err != nil:
		return answer{}, err
	case meta.LastIndex == 0:
		return answer{}, errNoIndex
	case meta.ResultsFilteredByACLs:
		return answer{}, fmt.Errorf("%w: some names of the family may not be read", naming.ErrDenied)
	}
	a := answer{index: meta.LastIndex, entries: make([]naming.Entry, 0, len(pairs))}
	for _, pair := range pairs {
		if pair == nil {
			return answer{}, fmt.Errorf("%w: there is null for an entry in the answer", naming.ErrUnavailable)
		}
		name, err := q.backend.settings.keys.name(pair.Key)
		if err != nil {
			// Somebody else's keys below our root are no reason to hide good ones.
			q.backend.log.Debug().Err(err).Str("key", pair.Key).Msg("ignored")
			continue
		}
		a.entries = append(a.entries, entry(name, pair))
	}
	return a, nil
}
