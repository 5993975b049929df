package naming_test

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/seed-6593ebad/skywarden/naming"
)

func TestParseAddress(t *testing.T) {
	for s, want := range map[string]string{
		"game-1@10.0.0.5:7000/42":         "",
		"a.b@[fd00::5]:1/0":               "",
		"n@127.0.0.1:65535/4294967295":    "",
		"n@169.254.169.254:80/1":          "",
		"GAME@10.0.0.5:7000/42":           "game@10.0.0.5:7000/42",
		"n@[FD00:0:0:0:0:0:0:5]:7000/1":   "n@[fd00::5]:7000/1",
		"game-1.eu_west@192.168.1.1:80/7": "",
	} {
		if want == "" {
			want = s
		}
		a, err := naming.ParseAddress(s)
		if err != nil {
			t.Errorf("%q: %v", s, err)
			continue
		}
		if a.String() != want || a.IsZero() {
			t.Errorf("%q is written %q, want %q", s, a, want)
		}
		if again, err := naming.NewAddress(a.Node(), a.Endpoint(), a.Handle()); err != nil || again != a {
			t.Errorf("%q: made of its parts it is %q, %v", s, again, err)
		}
	}
	a, err := naming.ParseAddress("game-1@10.0.0.5:7000/42")
	if err != nil || a.Node().String() != "game-1" || a.Endpoint() != netip.MustParseAddrPort("10.0.0.5:7000") || a.Handle() != 42 {
		t.Errorf("got the parts %q, %v, %d, %v", a.Node(), a.Endpoint(), a.Handle(), err)
	}
}

func TestAddressesThatAreRefused(t *testing.T) {
	for s, want := range map[string]error{
		"":                           naming.ErrAddressNotAllowed,
		"10.0.0.5:7000/42":           naming.ErrAddressNotAllowed,
		"n@10.0.0.5:7000":            naming.ErrAddressNotAllowed,
		"@10.0.0.5:7000/42":          naming.ErrNameInvalid,
		"a b@10.0.0.5:7000/42":       naming.ErrNameInvalid,
		"n@n@10.0.0.5:7000/42":       naming.ErrAddressNotAllowed,
		"n@10.0.0.5:7000/":           naming.ErrAddressNotAllowed,
		"n@10.0.0.5:7000/042":        naming.ErrAddressNotAllowed,
		"n@10.0.0.5:7000/+42":        naming.ErrAddressNotAllowed,
		"n@10.0.0.5:7000/-1":         naming.ErrAddressNotAllowed,
		"n@10.0.0.5:7000/4294967296": naming.ErrAddressNotAllowed,
		"n@10.0.0.5:7000/4/2":        naming.ErrAddressNotAllowed,
		"n@host:7000/42":             naming.ErrAddressNotAllowed,
		"n@10.0.0.5:7000/42\n":       naming.ErrAddressNotAllowed,
	} {
		a, err := naming.ParseAddress(s)
		wantRefused(t, s, err, want)
		if !a.IsZero() {
			t.Errorf("%q was refused and is %q", s, a)
		}
	}
	node, err := naming.ParseNodeID("n")
	if err != nil {
		t.Fatal(err)
	}
	endpoint := netip.MustParseAddrPort("10.0.0.5:7000")
	_, err = naming.NewAddress(naming.NodeID{}, endpoint, 1)
	wantRefused(t, "zero node", err, naming.ErrNameInvalid)
	for _, ep := range []netip.AddrPort{{}, netip.MustParseAddrPort("0.0.0.0:1"), netip.MustParseAddrPort("10.0.0.5:0")} {
		_, err = naming.NewAddress(node, ep, 1)
		wantRefused(t, ep.String(), err, naming.ErrAddressNotAllowed)
	}
}

func TestEndpointsThatAreRefused(t *testing.T) {
	for s, want := range map[string]string{
		"":                       "is not IP:PORT",
		"10.0.0.5":               "is not IP:PORT",
		":7000":                  "is not IP:PORT",
		"localhost:7000":         "host names are not accepted",
		"metadata.internal:80":   "host names are not accepted",
		"10.0.0.5:http":          "is not IP:PORT",
		"10.0.0.5:70000":         "is not IP:PORT",
		"010.0.0.5:7000":         "is not IP:PORT",
		"0x0a.0.0.5:7000":        "is not IP:PORT",
		"167772165:7000":         "is not IP:PORT",
		"10.0.0.5:0":             "has port 0",
		"0.0.0.0:7000":           "the unspecified address",
		"[::]:7000":              "the unspecified address",
		"[::ffff:10.0.0.5]:7000": "write 10.0.0.5:7000",
		"[fe80::1%eth0]:7000":    "has a zone",
		"224.0.0.1:7000":         "not the address of one host",
		"[ff02::1]:7000":         "not the address of one host",
		"255.255.255.255:7000":   "not the address of one host",
		"10.0.0.5:7000\t":        "is not IP:PORT",
		strings.Repeat("1", 1e6): "is not IP:PORT",
	} {
		ep, err := naming.ParseEndpoint(s)
		wantRefused(t, s, err, naming.ErrAddressNotAllowed)
		if err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: the error is %q, want it to contain %q", s, err, want)
		}
		if ep.IsValid() {
			t.Errorf("%.40q was refused and is %v", s, ep)
		}
	}
}

func TestZeroAddress(t *testing.T) {
	var a naming.Address
	if !a.IsZero() || a.String() != "" {
		t.Errorf("the zero Address is written %q, zero: %v", a, a.IsZero())
	}
}

func TestAddressesInJSON(t *testing.T) {
	var doc struct{ At naming.Address }
	if err := json.Unmarshal([]byte(`{"At": "n@10.0.0.5:7000/42"}`), &doc); err != nil {
		t.Fatal(err)
	}
	if out, err := json.Marshal(doc); err != nil || string(out) != `{"At":"n@10.0.0.5:7000/42"}` {
		t.Errorf("got %s, %v", out, err)
	}
	before := doc.At
	err := json.Unmarshal([]byte(`{"At": "n@host:7000/42"}`), &doc)
	wantRefused(t, "n@host:7000/42", err, naming.ErrAddressNotAllowed)
	if doc.At != before {
		t.Errorf("a refused text changed the Address to %q", doc.At)
	}
}

func FuzzParseEndpoint(f *testing.F) {
	for _, s := range []string{"10.0.0.5:7000", "[fd00::5]:7000", "[::ffff:10.0.0.5]:7000", "[fe80::1%25eth0]:1", "host:1", "0.0.0.0:0", "1.2.3.4:00001"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ep, err := naming.ParseEndpoint(s)
		if err != nil {
			wantRefused(t, s, err, naming.ErrAddressNotAllowed)
			return
		}
		ip := ep.Addr()
		if ep.Port() == 0 || ip.Zone() != "" || ip.Is4In6() || ip.IsUnspecified() || ip.IsMulticast() {
			t.Errorf("%q was accepted as %v", s, ep)
		}
		if again, err := naming.ParseEndpoint(ep.String()); err != nil || again != ep {
			t.Errorf("%q: %q is parsed to %v, %v", s, ep, again, err)
		}
	})
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"game-1@10.0.0.5:7000/42", "n@[fd00::5]:7000/0", "n@h:1/1", "@/", "n@1.2.3.4:5/06"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := naming.ParseAddress(s)
		if err != nil {
			want := naming.ErrAddressNotAllowed
			if naming.Code(err) == "name_invalid" {
				want = naming.ErrNameInvalid
			}
			wantRefused(t, s, err, want)
			return
		}
		if again, err := naming.ParseAddress(a.String()); err != nil || again != a {
			t.Errorf("%q: %q is parsed to %q, %v", s, a, again, err)
		}
		if _, err := naming.NewAddress(a.Node(), a.Endpoint(), a.Handle()); err != nil {
			t.Errorf("%q is parsed, and its parts are refused: %v", s, err)
		}
	})
}
