package naming_test

import (
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/seed-6593ebad/skywarden/naming"
)

// grammar is the grammar of names written a second time, apart from its length.
var grammar = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?){0,7}\z`)

func valid(s string) bool { return len(s) <= naming.MaxNameLen && grammar.MatchString(s) }

// longest is a name of exactly 128 bytes.
var longest = strings.Repeat(strings.Repeat("a", 63)+".", 2)[:126] + ".b"

func TestParseName(t *testing.T) {
	for _, s := range []string{
		"a", "0", "game", "game.lobby", "game-1.eu_west.lobby", "a_b", "a-b", "a--b", "a__b", "1.2.3.4.5.6.7.8",
		strings.Repeat("a", naming.MaxLabelLen), longest, "GAME.Lobby", "Z",
	} {
		n, err := naming.ParseName(s)
		if err != nil {
			t.Errorf("%q: %v", s, err)
			continue
		}
		if want := strings.ToLower(s); n.String() != want {
			t.Errorf("%q was parsed to %q, want %q", s, n, want)
		}
		if got := strings.Join(n.Labels(), "."); got != n.String() {
			t.Errorf("%q has the labels %q", s, n.Labels())
		}
		if n.IsZero() {
			t.Errorf("%q is the zero Name", s)
		}
	}
	if len(longest) != naming.MaxNameLen {
		t.Fatalf("the longest name has %d bytes", len(longest))
	}
}

// Each refusal says what is wrong and where.
func TestNamesThatAreRefused(t *testing.T) {
	for s, want := range map[string]string{
		"":                       "is empty",
		".logger":                "local to its node",
		".":                      "local to its node",
		"a.":                     "empty label at byte 2",
		"a..b":                   "empty label at byte 2",
		"-a":                     `the label "-a"`,
		"a.b_":                   `the label "b_"`,
		"a b":                    `has " " at byte 1`,
		"a/b":                    `has "/" at byte 1`,
		"b/../a":                 `has "/" at byte 1`,
		"a//b":                   `has "/" at byte 1`,
		"a%2fb":                  `has "%" at byte 1`,
		"a\\b":                   `at byte 1`,
		"a\x00b":                 `has "\x00" at byte 1`,
		"a\n":                    `has "\n" at byte 1`,
		"bаnk":                   `at byte 1`, // a Cyrillic а
		"bank\u200b":             `at byte 4`,
		"ｂank":                   `at byte 0`,
		"\u212a":                 `at byte 0`, // the Kelvin sign, which folds to k
		"1.2.3.4.5.6.7.8.9":      "has 9 labels: 8 at most",
		strings.Repeat("a", 64):  "label of 64 bytes: 63 at most",
		longest + "b":            "is 129 bytes long: 128 at most",
		strings.Repeat("a", 1e6): "is 1000000 bytes long",
	} {
		n, err := naming.ParseName(s)
		wantRefused(t, s, err, naming.ErrNameInvalid)
		if err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: the error is %q, want it to contain %q", s, err, want)
		}
		if !n.IsZero() {
			t.Errorf("%.40q was refused and is %q", s, n)
		}
	}
}

// wantRefused checks the kind of an error, and that its text cannot forge or
// flood a log.
func wantRefused(t *testing.T, s string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%.40q: got error %v, want %q", s, err, want)
		return
	}
	msg := err.Error()
	if len(msg) > 2048 {
		t.Errorf("%.40q: the error has %d bytes", s, len(msg))
	}
	if i := strings.IndexFunc(msg, func(r rune) bool { return r < ' ' || r == 0x7f }); i >= 0 {
		t.Errorf("%.40q: the error has a control character: %q", s, msg)
	}
}

func TestLocalNamesAndNodes(t *testing.T) {
	local, err := naming.ParseLocalName(".Logger.x")
	if err != nil || local.String() != ".logger.x" {
		t.Errorf("got %q, %v", local, err)
	}
	for _, s := range []string{"", "logger", ".", "..x", ".-", ". x"} {
		_, err := naming.ParseLocalName(s)
		wantRefused(t, s, err, naming.ErrNameInvalid)
	}
	node, err := naming.ParseNodeID("Game-1.eu")
	if err != nil || node.String() != "game-1.eu" || node.IsZero() {
		t.Errorf("got %q, %v", node, err)
	}
	for _, s := range []string{"", ".a", "a@b", "a/b"} {
		node, err := naming.ParseNodeID(s)
		wantRefused(t, s, err, naming.ErrNameInvalid)
		if !node.IsZero() {
			t.Errorf("%q was refused and is %q", s, node)
		}
	}
}

func TestZeroName(t *testing.T) {
	var n naming.Name
	if !n.IsZero() || n.String() != "" || n.Labels() != nil {
		t.Errorf("the zero Name is %q with labels %q", n, n.Labels())
	}
}

func TestNamesInJSON(t *testing.T) {
	var doc struct{ A, B naming.Name }
	if err := json.Unmarshal([]byte(`{"A": "Game.Lobby", "B": "x"}`), &doc); err != nil {
		t.Fatal(err)
	}
	if out, err := json.Marshal(doc); err != nil || string(out) != `{"A":"game.lobby","B":"x"}` {
		t.Errorf("got %s, %v", out, err)
	}
	before := doc.A
	err := json.Unmarshal([]byte(`{"A": "a b"}`), &doc)
	wantRefused(t, "a b", err, naming.ErrNameInvalid)
	if doc.A != before {
		t.Errorf("a refused text changed the Name to %q", doc.A)
	}
}

func FuzzParseName(f *testing.F) {
	for _, s := range []string{"game.lobby", ".logger", "a..b", "A_b-C", longest, "1.2.3.4.5.6.7.8.9", "bаnk", "a%2f", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := naming.ParseName(s)
		if (err == nil) != valid(s) {
			t.Fatalf("%q: error %v, and by the grammar it is a name: %v", s, err, valid(s))
		}
		if err != nil {
			wantRefused(t, s, err, naming.ErrNameInvalid)
			return
		}
		if n.String() != strings.ToLower(s) {
			t.Errorf("%q was parsed to %q", s, n)
		}
		for _, same := range []string{n.String(), strings.ToUpper(s)} {
			if again, err := naming.ParseName(same); err != nil || again != n {
				t.Errorf("%q and %q are one name, and gave %q and %q, %v", s, same, n, again, err)
			}
		}
		if local, err := naming.ParseLocalName("." + s); err != nil || local.String() != "."+n.String() {
			t.Errorf("%q: as a local name %q, %v", s, local, err)
		}
		if node, err := naming.ParseNodeID(s); err != nil || node.String() != n.String() {
			t.Errorf("%q: as a node %q, %v", s, node, err)
		}
		if !slices.Equal(n.Labels(), strings.Split(n.String(), ".")) {
			t.Errorf("%q has the labels %q", s, n.Labels())
		}
	})
}
