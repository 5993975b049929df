package main

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/seed-6593ebad/skywarden/adapter/record"
	"github.com/seed-6593ebad/skywarden/naming"
)

type lsCommand struct {
	configFlag
	Prefix  string        `arg:"" optional:"" help:"A family such as \"game.\", or one name. Default: all names."`
	JSON    bool          `name:"json" help:"Print one JSON object per name."`
	Timeout time.Duration `default:"10s" help:"How long to wait for the name server."`
}

// Run lists what the name server holds, also what look-ups would not return:
// entries that nobody holds any more, and malformed ones.
func (cmd *lsCommand) Run(ctx context.Context, c *console) (err error) {
	scope, err := naming.ParseScope(cmd.Prefix)
	if err != nil {
		return usageError{err}
	}
	ctx, cancel := context.WithTimeout(ctx, cmd.Timeout)
	defer cancel()
	_, backend, err := cmd.open(ctx, c)
	if err != nil {
		return err
	}
	defer closing(&err, backend.Close)
	entries, err := list(ctx, backend, scope)
	if err != nil {
		return err
	}
	return cmd.show(c, entries)
}

func (cmd *lsCommand) show(c *console, entries []naming.Entry) error {
	if cmd.JSON {
		for _, e := range entries {
			if err := c.json(newListed(e)); err != nil {
				return err
			}
		}
		return nil
	}
	table := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "NAME\tADDRESS\tEPOCH\tHELD") // Flush says whether it was written
	for _, e := range entries {
		l := newListed(e)
		address, epoch, held := l.address.String(), strconv.FormatUint(l.Epoch, 10), "no"
		if l.Malformed != "" {
			address, epoch = "malformed", "-"
		}
		if l.Held {
			held = "yes"
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", l.Name, address, epoch, held)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, e := range entries {
		if l := newListed(e); l.Malformed != "" {
			c.printf("%s: %s\n", l.Name, l.Malformed)
		}
	}
	return nil
}

// list is a watch that ends where everything that is there has been told.
func list(ctx context.Context, backend naming.Backend, scope naming.Scope) ([]naming.Entry, error) {
	entries := map[naming.Name]naming.Entry{}
	for e, err := range backend.Watch(ctx, scope) {
		if err != nil {
			return nil, err
		}
		switch e.Kind {
		case naming.Put:
			entries[e.Entry.Name] = e.Entry
		case naming.Delete:
			delete(entries, e.Entry.Name)
		case naming.Down:
			return nil, e.Err
		case naming.Synced:
			sorted := make([]naming.Entry, 0, len(entries))
			for _, entry := range entries {
				sorted = append(sorted, entry)
			}
			slices.SortFunc(sorted, func(a, b naming.Entry) int { return cmp.Compare(a.Name.String(), b.Name.String()) })
			return sorted, nil
		}
	}
	return nil, fmt.Errorf("%w: the watch ended before it gave everything", naming.ErrUnavailable)
}

// listed is an entry as ls shows it.
type listed struct {
	Name      naming.Name    `json:"name"`
	Node      string         `json:"node,omitempty"`
	Endpoint  netip.AddrPort `json:"endpoint,omitzero"`
	Handle    naming.Handle  `json:"handle"`
	Epoch     uint64         `json:"epoch"`
	Held      bool           `json:"held"`
	Malformed string         `json:"malformed,omitempty"` // why nobody can use it
	address   naming.Address
}

func newListed(e naming.Entry) listed {
	l := listed{Name: e.Name, Held: e.Held}
	r, err := record.Decode(e.Value)
	if err != nil {
		l.Malformed = printable(err.Error())
		return l
	}
	l.address, l.Epoch = r.Address, r.Epoch
	l.Node, l.Endpoint, l.Handle = r.Address.Node().String(), r.Address.Endpoint(), r.Address.Handle()
	return l
}

// printable keeps bytes that somebody else wrote from moving the cursor.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}
