package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/seed-6593ebad/skywarden/adapter"
	"github.com/seed-6593ebad/skywarden/backends/memory"
	"github.com/seed-6593ebad/skywarden/naming"
)

func newCheckup() (*checkup, *bytes.Buffer) {
	var out bytes.Buffer
	return &checkup{console: &console{out: &out}, file: "f.yaml", count: map[naming.Level]int{}}, &out
}

// The rights that a server gives are compared with the allow-list, on the
// built-in server: with more and with less than the list says.
func TestCheckRights(t *testing.T) {
	anywhere := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	allow, err := adapter.NewAllowList([]adapter.Rule{
		{Scope: family("game."), Owners: []string{"game"}, Addresses: anywhere},
		{Scope: naming.Only(name("game.admin")), Owners: []string{"ops"}, Addresses: anywhere},
		{Scope: naming.Only(name("billing")), Owners: []string{"billing"}, Addresses: anywhere, Readers: []string{"audit"}},
		{Scope: family("lobby."), Owners: []string{"game", "ops"}, Addresses: anywhere, Readers: []string{"ops"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	only := func(names ...string) (all []naming.Scope) {
		for _, n := range names {
			all = append(all, naming.Only(name(n)))
		}
		return all
	}
	for _, test := range []struct {
		title string
		may   memory.Grant
		want  []string // a piece of each line that is not ok
	}{
		{"less", memory.Grant{Claim: []naming.Scope{family("lobby.")}, Read: only("game.admin")}, []string{
			"fail  claim what is ours: game.", "fail  look up what we may: game.",
		}},
		{"more", memory.Grant{Claim: []naming.Scope{naming.All()}}, []string{
			"fail  claim what is not ours: billing (rule billing,",
			"fail  claim what is not ours: game.admin (rule game.admin, whose owners are ops): the server would let us have it",
			"fail  claim what is not ours: game-",
			"fail  claim what is not ours: game (it is beside rule game.)",
			"fail  claim what is not ours: lobby-",
			"fail  claim what is not ours: lobby (it is beside rule lobby.)",
			"-skywarden-check (no rule speaks of it): the server would let us have it",
			"fail  look up what we may not: billing (rule billing, whose owners are billing): the server lets us see it",
		}},
		{"the claims as they should be, and a name that should be hidden", memory.Grant{Claim: []naming.Scope{family("lobby.")}, Read: []naming.Scope{naming.All()}}, []string{
			"fail  claim what is ours: game.", "fail  look up what we may not: billing",
		}},
	} {
		t.Run(test.title, func(t *testing.T) {
			server := new(memory.Server)
			credential, err := server.Grant("game", test.may)
			if err != nil {
				t.Fatal(err)
			}
			backend := server.OpenAs(credential)
			defer backend.Close()
			u, out := newCheckup()
			u.rights(t.Context(), allow, 0, backend, "game")
			var problems []string
			for line := range strings.Lines(out.String()) {
				if !strings.HasPrefix(line, "ok ") && !strings.HasPrefix(line, "      → ") {
					problems = append(problems, strings.TrimSpace(line))
				}
			}
			for i, want := range test.want {
				if i < len(problems) && !strings.Contains(problems[i], want) {
					t.Errorf("line %d: got %q, want %q", i, problems[i], want)
				}
			}
			if len(problems) != len(test.want) || u.count[naming.LevelFail] != len(test.want) {
				t.Errorf("%d problems, want %d:\n%s", len(problems), len(test.want), out.String())
			}
			if got := strings.Count(out.String(), "→ skywarden provision -c f.yaml --plan"); got != len(test.want) {
				t.Errorf("%d of %d say what to do", got, len(test.want))
			}
			auditor, err := server.Grant("audit", memory.Grant{Read: []naming.Scope{naming.All()}})
			if err != nil {
				t.Fatal(err)
			}
			audit := server.OpenAs(auditor)
			defer audit.Close()
			entries, err := list(t.Context(), audit, naming.All())
			if err != nil || len(entries) != 0 {
				t.Errorf("left on the server: %v, %v", entries, err)
			}
		})
	}
}

// Where nothing can be asked nothing is called good.
func TestCheckRightsWithoutServer(t *testing.T) {
	allow, err := adapter.NewAllowList(nil)
	if err != nil {
		t.Fatal(err)
	}
	backend := new(memory.Server).Open()
	if err := backend.Close(); err != nil {
		t.Fatal(err)
	}
	u, out := newCheckup()
	u.rights(t.Context(), allow, 0, backend, "game")
	if !strings.Contains(out.String(), "fail  claim what is ours: no lease") || !strings.Contains(out.String(), "warn  claim what is not ours: not checked") {
		t.Errorf("got\n%s", out.String())
	}
}

func TestProbes(t *testing.T) {
	long := strings.Repeat("a", 60) + "." + strings.Repeat("b", 60) + "." // room for six letters
	full := strings.Repeat("a", 63) + "." + strings.Repeat("b", 62) + "." // room for one
	for _, f := range []string{"game.", long, full} {
		probes := probesFor([]adapter.Rule{{Scope: family(f), Owners: []string{"x"}}}, "game")
		if len(probes) != 2 || !family(f).Contains(probes[0].name) || !probes[0].ruled || probes[1].ruled {
			t.Errorf("%s: %v", f, probes)
		}
	}
	ours := probesFor([]adapter.Rule{{Scope: naming.Only(name("bank")), Owners: []string{"game"}}}, "game")
	var names []string
	for _, p := range ours {
		names = append(names, p.name.String())
	}
	if len(names) != 4 || names[0] != "bank" || !strings.HasPrefix(names[1], "bank-") || !strings.HasPrefix(names[2], "bank.") {
		t.Errorf("got %q", names)
	}
}

// An error that came before anything could be asked belongs to one step; what is
// before it went well, and what is after it was not checked.
func TestCheckUnreachable(t *testing.T) {
	for step, err := range map[string]error{
		checkLink:        fmt.Errorf("open: %w: nobody there", naming.ErrUnavailable),
		checkTLS:         fmt.Errorf("open: %w: %w", naming.ErrUnavailable, &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}),
		checkIdentity:    fmt.Errorf("whoami: %w", naming.ErrUnauthenticated),
		"server version": errors.Join(fmt.Errorf("a: %w", naming.ErrInsecureBackendVersion), fmt.Errorf("b: %w", naming.ErrInsecureBackendVersion)),
		"access control": fmt.Errorf("open: %w", naming.ErrInsecureConfig),
	} {
		u, out := newCheckup()
		u.unreachable(err)
		if !strings.Contains(out.String(), "fail  "+step+": ") || u.count[naming.LevelFail] != 1 {
			t.Errorf("%s:\n%s", step, out.String())
		}
		for _, check := range checks[1:] {
			if !slices.Contains(u.seen, check) {
				t.Errorf("%s: nothing about %s", step, check)
			}
		}
		if !strings.Contains(out.String(), "warn  claim what is not ours: not checked") {
			t.Errorf("%s:\n%s", step, out.String())
		}
		if got := strings.Count(out.String(), "\n"); got != u.count[naming.LevelOK]+u.count[naming.LevelWarn]+2 {
			t.Errorf("%s: %d lines:\n%s", step, got, out.String())
		}
	}
}
