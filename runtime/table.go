package runtime

import (
	"sync"

	"github.com/seed-6593ebad/skywarden/naming"
)

// A table finds services by handle. It is split, so that senders to different
// services seldom meet at one lock.
type table struct {
	parts [64]struct {
		mu sync.RWMutex
		m  map[naming.Handle]*service
	}
}

func (t *table) get(h naming.Handle) *service {
	p := &t.parts[h%64]
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.m[h]
}

func (t *table) put(s *service) {
	p := &t.parts[s.handle%64]
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.m == nil {
		p.m = make(map[naming.Handle]*service)
	}
	p.m[s.handle] = s
}

func (t *table) remove(h naming.Handle) {
	p := &t.parts[h%64]
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.m, h)
}

// all gives the services, in no order.
func (t *table) all() []*service {
	var all []*service
	for i := range t.parts {
		p := &t.parts[i]
		p.mu.RLock()
		for _, s := range p.m {
			all = append(all, s)
		}
		p.mu.RUnlock()
	}
	return all
}
