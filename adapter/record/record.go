// Package record is what an entry's bytes say: who answers to the name, where,
// and under which epoch. It knows nothing of backends and of who may own what.
package record

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"github.com/seed-6593ebad/skywarden/naming"
)

// MaxLen is the most bytes that a record may have: what a backend may store.
const MaxLen = naming.MaxValueLen

// version is the only one that this package reads and writes.
const version = 1

// A Record is one claim of a name, as its owner states it.
type Record struct {
	Address naming.Address
	// Epoch numbers the claims of one name: max(clock in ms, highest epoch seen + 1)
	// when the claim was made. Never 0.
	Epoch uint64
	// Instance is random for each claim, so that two claims are never the same
	// bytes.
	Instance [16]byte
}

// wire is the JSON of a Record. The order of the fields is the order on the
// wire.
type wire struct {
	Version  int    `json:"v"`
	Node     string `json:"node"`
	Endpoint string `json:"endpoint"`
	Handle   uint32 `json:"handle"`
	Epoch    uint64 `json:"epoch"`
	Instance string `json:"instance"`
}

// Encode gives the bytes of r. It refuses a record without an address or epoch
// with ErrMalformed.
func Encode(r Record) ([]byte, error) {
	if r.Address.IsZero() || r.Epoch == 0 {
		return nil, fmt.Errorf("%w: a record needs an address and an epoch", naming.ErrMalformed)
	}
	return json.Marshal(wire{
		Version:  version,
		Node:     r.Address.Node().String(),
		Endpoint: r.Address.Endpoint().String(),
		Handle:   uint32(r.Address.Handle()),
		Epoch:    r.Epoch,
		Instance: hex.EncodeToString(r.Instance[:]),
	})
}

// Decode reads exactly what Encode writes. Everything else is refused: more than
// MaxLen bytes with ErrTooLarge; another version, an unknown, repeated, missing
// or reordered field, another spelling of a value, bytes before or after, with
// ErrMalformed.
func Decode(data []byte) (Record, error) {
	if len(data) > MaxLen {
		return Record{}, fmt.Errorf("%w: a record of %d bytes: %d at most", naming.ErrTooLarge, len(data), MaxLen)
	}
	r, err := decode(data)
	if err != nil {
		return Record{}, fmt.Errorf("%w record: %w", naming.ErrMalformed, err)
	}
	return r, nil
}

func decode(data []byte) (Record, error) {
	var w wire
	// encoding/json forgives a lot (repeated fields, other cases of letters). The
	// comparison with the canonical bytes below does not, so it is the rule; this
	// is only where the values come from.
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&w); err != nil {
		// A record of a later version may have fields that this one does not know:
		// then the version is the better answer.
		var v struct {
			Version int `json:"v"`
		}
		if json.Unmarshal(data, &v) == nil && v.Version > version {
			return Record{}, unknownVersion(v.Version)
		}
		return Record{}, err
	}
	if w.Version != version {
		return Record{}, unknownVersion(w.Version)
	}
	node, err := naming.ParseNodeID(w.Node)
	if err != nil {
		return Record{}, err
	}
	endpoint, err := netip.ParseAddrPort(w.Endpoint)
	if err != nil {
		return Record{}, errors.New("endpoint is not IP:PORT")
	}
	r := Record{Epoch: w.Epoch}
	if r.Address, err = naming.NewAddress(node, endpoint, naming.Handle(w.Handle)); err != nil {
		return Record{}, err
	}
	if n, err := hex.Decode(r.Instance[:], []byte(w.Instance)[:min(len(w.Instance), 2*len(r.Instance))]); err != nil || n != len(r.Instance) {
		return Record{}, errors.New("instance is not 32 hexadecimal digits")
	}
	canonical, err := Encode(r)
	if err != nil {
		return Record{}, err
	}
	if !bytes.Equal(canonical, data) {
		return Record{}, errors.New("not in canonical form: a field is repeated, missing, out of order or spelt otherwise, or there are bytes around it")
	}
	return r, nil
}

func unknownVersion(v int) error {
	return fmt.Errorf("version %d is not known: this program reads version %d", v, version)
}
