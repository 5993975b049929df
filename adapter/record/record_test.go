package record_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/seed-6593ebad/skywarden/adapter/record"
	"github.com/seed-6593ebad/skywarden/naming"
)

func sample(t testing.TB) record.Record {
	t.Helper()
	addr, err := naming.ParseAddress("game-1@10.0.0.5:7000/42")
	if err != nil {
		t.Fatal(err)
	}
	return record.Record{Address: addr, Epoch: 1764000000000, Instance: [16]byte{1, 2, 3, 15: 0xff}}
}

const sampleJSON = `{"v":1,"node":"game-1","endpoint":"10.0.0.5:7000","handle":42,"epoch":1764000000000,"instance":"010203000000000000000000000000ff"}`

// TestEncoding pins the bytes: other programs read them, and later versions must.
func TestEncoding(t *testing.T) {
	data, err := record.Encode(sample(t))
	if err != nil {
		t.Fatal(err)
	}
	if string(data) != sampleJSON {
		t.Errorf("got  %s\nwant %s", data, sampleJSON)
	}
	r, err := record.Decode(data)
	if err != nil || r != sample(t) {
		t.Errorf("Decode gave %+v, %v", r, err)
	}
}

func TestEncodeRefusesIncomplete(t *testing.T) {
	r := sample(t)
	for _, bad := range []record.Record{{}, {Address: r.Address}, {Epoch: 1}} {
		if data, err := record.Encode(bad); !errors.Is(err, naming.ErrMalformed) {
			t.Errorf("Encode(%+v) gave %s, %v", bad, data, err)
		}
	}
}

func TestDecodeIsStrict(t *testing.T) {
	swap := func(old, with string) string {
		if !strings.Contains(sampleJSON, old) {
			t.Fatalf("%q is not in the sample", old)
		}
		return strings.Replace(sampleJSON, old, with, 1)
	}
	for name, c := range map[string]struct {
		data string
		kind error
		says string
	}{
		"empty":              {"", naming.ErrMalformed, ""},
		"not JSON":           {"10.0.0.5:7000", naming.ErrMalformed, ""},
		"no object":          {"[]", naming.ErrMalformed, ""},
		"null":               {"null", naming.ErrMalformed, "version 0"},
		"later version":      {swap(`"v":1`, `"v":2`), naming.ErrMalformed, "version 2 is not known"},
		"later, new field":   {swap(`"v":1`, `"v":2,"new":true`), naming.ErrMalformed, "version 2 is not known"},
		"no version":         {swap(`"v":1,`, ``), naming.ErrMalformed, "version 0"},
		"unknown field":      {swap(`"v":1`, `"v":1,"extra":0`), naming.ErrMalformed, "extra"},
		"repeated field":     {swap(`"handle":42`, `"handle":42,"handle":42`), naming.ErrMalformed, "canonical"},
		"other case":         {swap(`"handle"`, `"Handle"`), naming.ErrMalformed, "canonical"},
		"other order":        {swap(`"handle":42,"epoch":1764000000000`, `"epoch":1764000000000,"handle":42`), naming.ErrMalformed, "canonical"},
		"trailing bytes":     {sampleJSON + "\n", naming.ErrMalformed, "canonical"},
		"trailing object":    {sampleJSON + sampleJSON, naming.ErrMalformed, "canonical"},
		"leading space":      {" " + sampleJSON, naming.ErrMalformed, "canonical"},
		"escaped text":       {swap(`game-1`, `game\u002d1`), naming.ErrMalformed, "canonical"},
		"node in capitals":   {swap(`game-1`, `Game-1`), naming.ErrMalformed, "canonical"},
		"bad node":           {swap(`game-1`, `-`), naming.ErrMalformed, "label"},
		"host name":          {swap(`10.0.0.5`, `localhost`), naming.ErrMalformed, "IP:PORT"},
		"IPv4 in IPv6":       {swap(`10.0.0.5:7000`, `[::ffff:10.0.0.5]:7000`), naming.ErrMalformed, "IPv4 written as IPv6"},
		"port 0":             {swap(`:7000`, `:0`), naming.ErrMalformed, "port 0"},
		"negative handle":    {swap(`"handle":42`, `"handle":-1`), naming.ErrMalformed, ""},
		"handle too large":   {swap(`"handle":42`, `"handle":4294967296`), naming.ErrMalformed, ""},
		"epoch 0":            {swap(`1764000000000`, `0`), naming.ErrMalformed, "epoch"},
		"epoch as float":     {swap(`1764000000000`, `1.764e12`), naming.ErrMalformed, ""},
		"instance too short": {swap(`ff"`, `"`), naming.ErrMalformed, "32 hexadecimal"},
		"instance too long":  {swap(`ff"`, `ff00"`), naming.ErrMalformed, "canonical"},
		"instance not hex":   {swap(`ff"`, `zz"`), naming.ErrMalformed, "32 hexadecimal"},
		"too large":          {sampleJSON + strings.Repeat(" ", record.MaxLen), naming.ErrTooLarge, "4096"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := record.Decode([]byte(c.data))
			if !errors.Is(err, c.kind) || !strings.Contains(fmt.Sprint(err), c.says) {
				t.Errorf("Decode(%s) gave %+v, %v; want %v saying %q", c.data, r, err, c.kind, c.says)
			}
		})
	}
}

// FuzzDecode: no input panics, and what is accepted is exactly what Encode gives.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(sampleJSON))
	f.Add([]byte(`{"v":2}`))
	f.Add([]byte(`{"v":1,"node":"a","endpoint":"[fd00::1]:1","handle":0,"epoch":18446744073709551615,"instance":"00000000000000000000000000000000"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := record.Decode(data)
		if err != nil {
			if !errors.Is(err, naming.ErrMalformed) && !errors.Is(err, naming.ErrTooLarge) {
				t.Errorf("error of an unexpected kind: %v", err)
			}
			return
		}
		again, err := record.Encode(r)
		if err != nil || string(again) != string(data) {
			t.Errorf("accepted %s, which encodes to %s, %v", data, again, err)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	data := []byte(sampleJSON)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := record.Decode(data); err != nil {
			b.Fatal(err)
		}
	}
}
