package naming

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// A Handle is a service's number on its node. Handles go upwards and are not
// used again while the node lives. 0 is no service of the node: an address
// with handle 0 means the endpoint itself, for services that are not written
// with this runtime.
type Handle uint32

// An Address says where a service is: its node, the node's endpoint and the
// service's handle there. It can only be had from ParseAddress or NewAddress;
// the zero Address is nowhere. Addresses are comparable.
type Address struct {
	node     NodeID
	endpoint netip.AddrPort
	handle   Handle
}

// NewAddress joins parsed parts. It refuses a zero node with ErrNameInvalid and
// an endpoint that ParseEndpoint would refuse with ErrAddressNotAllowed.
func NewAddress(node NodeID, endpoint netip.AddrPort, handle Handle) (Address, error) {
	if node.IsZero() {
		return Address{}, fmt.Errorf("%w: an address needs a node", ErrNameInvalid)
	}
	if err := checkEndpoint(endpoint); err != nil {
		return Address{}, fmt.Errorf("%w: %s %w", ErrAddressNotAllowed, quote(endpoint.String()), err)
	}
	return Address{node, endpoint, handle}, nil
}

// ParseAddress parses the text form NODE@IP:PORT/HANDLE, such as
// game-1@10.0.0.5:7000/42. The error wraps ErrNameInvalid for the node and
// ErrAddressNotAllowed for the rest.
func ParseAddress(s string) (Address, error) {
	node, rest, hasNode := strings.Cut(s, "@")
	endpoint, handle, hasHandle := strings.Cut(rest, "/")
	if !hasNode || !hasHandle {
		return Address{}, fmt.Errorf("%w: %s is not NODE@IP:PORT/HANDLE", ErrAddressNotAllowed, quote(s))
	}
	id, err := ParseNodeID(node)
	if err != nil {
		return Address{}, err
	}
	ep, err := ParseEndpoint(endpoint)
	if err != nil {
		return Address{}, err
	}
	h, err := strconv.ParseUint(handle, 10, 32)
	if err != nil || strconv.FormatUint(h, 10) != handle {
		return Address{}, fmt.Errorf("%w: handle %s is not a number from 0 to %d", ErrAddressNotAllowed, quote(handle), uint32(1<<32-1))
	}
	return Address{id, ep, Handle(h)}, nil
}

// ParseEndpoint parses IP:PORT. Host names are refused, because what they mean
// may change behind everybody's back; so are port 0, zones, IPv4 written as
// IPv6 (two spellings of one address would slip past an address range), and
// addresses that name no host: unspecified and multicast. The error wraps
// ErrAddressNotAllowed.
func ParseEndpoint(s string) (netip.AddrPort, error) {
	ep, err := netip.ParseAddrPort(s)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%w: %s is not IP:PORT (host names are not accepted), such as 10.0.0.5:7000 or [fd00::5]:7000", ErrAddressNotAllowed, quote(s))
	}
	if err := checkEndpoint(ep); err != nil {
		return netip.AddrPort{}, fmt.Errorf("%w: %s %w", ErrAddressNotAllowed, quote(s), err)
	}
	return ep, nil
}

// checkEndpoint's errors continue a sentence that begins with the endpoint.
func checkEndpoint(ep netip.AddrPort) error {
	ip := ep.Addr()
	switch {
	case !ip.IsValid():
		return errors.New("has no IP address")
	case ip.Is4In6():
		return fmt.Errorf("is IPv4 written as IPv6: write %s", netip.AddrPortFrom(ip.Unmap(), ep.Port()))
	case ip.Zone() != "":
		return errors.New("has a zone, which means nothing on another machine")
	case ip.IsUnspecified():
		return errors.New("is the unspecified address, which no other node can call: give the address that others use")
	case ip.IsMulticast(), ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return errors.New("is not the address of one host")
	case ep.Port() == 0:
		return errors.New("has port 0")
	}
	return nil
}

// Node gives the node's name.
func (a Address) Node() NodeID { return a.node }

// Endpoint gives the node's IP and port.
func (a Address) Endpoint() netip.AddrPort { return a.endpoint }

// Handle gives the service's number on its node.
func (a Address) Handle() Handle { return a.handle }

// IsZero says whether a is the zero Address, which is nowhere.
func (a Address) IsZero() bool { return a == Address{} }

// String gives the text form that ParseAddress parses, or "" for the zero
// Address.
func (a Address) String() string {
	if a.IsZero() {
		return ""
	}
	return a.node.s + "@" + a.endpoint.String() + "/" + strconv.FormatUint(uint64(a.handle), 10)
}

// MarshalText implements encoding.TextMarshaler.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler by ParseAddress.
func (a *Address) UnmarshalText(text []byte) error {
	parsed, err := ParseAddress(string(text))
	if err != nil {
		return err
	}
	*a = parsed
	return nil
}
