package naming

import (
	"errors"
	"fmt"
	"strings"
)

// Limits of a name, in bytes and labels.
const (
	MaxNameLen  = 128
	MaxLabelLen = 63
	MaxLabels   = 8
)

// A Name is what a service is called cluster-wide: 1 to 8 labels joined by
// dots, 128 bytes in all. A label is 1 to 63 ASCII letters, digits, "_" and
// "-", and begins and ends with a letter or a digit. Names are lower case:
// ParseName folds, so names that differ only in case are one name.
//
// A Name can only be had by parsing. The zero Name is no name: every function
// that takes one refuses it with ErrNameInvalid. Names are comparable.
type Name struct{ s string }

// ParseName parses a cluster-wide name. The error wraps ErrNameInvalid. A
// leading dot marks a node-local name and is refused here, so that a local
// name cannot reach a backend: see ParseLocalName.
func ParseName(s string) (Name, error) {
	if strings.HasPrefix(s, ".") {
		return Name{}, fmt.Errorf("%w: %s begins with a dot: it is local to its node and has no place in a registry", ErrNameInvalid, quote(s))
	}
	folded, err := parseLabels(s)
	if err != nil {
		return Name{}, fmt.Errorf("%w: %s %w", ErrNameInvalid, quote(s), err)
	}
	return Name{folded}, nil
}

// String gives the name in lower case, or "" for the zero Name.
func (n Name) String() string { return n.s }

// IsZero says whether n is the zero Name, which is no name.
func (n Name) IsZero() bool { return n.s == "" }

// Labels gives the labels from left to right: "game.lobby" has "game" and
// "lobby". The zero Name has none.
func (n Name) Labels() []string {
	if n.s == "" {
		return nil
	}
	return strings.Split(n.s, ".")
}

// MarshalText implements encoding.TextMarshaler.
func (n Name) MarshalText() ([]byte, error) { return []byte(n.s), nil }

// UnmarshalText implements encoding.TextUnmarshaler by ParseName.
func (n *Name) UnmarshalText(text []byte) error {
	parsed, err := ParseName(string(text))
	if err != nil {
		return err
	}
	*n = parsed
	return nil
}

// A LocalName names a service inside one node: a dot, then what ParseName
// accepts. It never leaves the node.
type LocalName struct{ s string }

// ParseLocalName parses a node-local name such as ".logger". The error wraps
// ErrNameInvalid.
func ParseLocalName(s string) (LocalName, error) {
	rest, dotted := strings.CutPrefix(s, ".")
	if !dotted {
		return LocalName{}, fmt.Errorf("%w: %s does not begin with a dot, as a node-local name does", ErrNameInvalid, quote(s))
	}
	folded, err := parseLabels(rest)
	if err != nil {
		return LocalName{}, fmt.Errorf("%w: %s %w", ErrNameInvalid, quote(s), err)
	}
	return LocalName{"." + folded}, nil
}

// String gives the name in lower case with its leading dot.
func (n LocalName) String() string { return n.s }

// A NodeID names a node: one process that runs services. Its grammar is that
// of Name, so host names of pods and machines fit.
type NodeID struct{ s string }

// ParseNodeID parses a node's name. The error wraps ErrNameInvalid.
func ParseNodeID(s string) (NodeID, error) {
	folded, err := parseLabels(s)
	if err != nil {
		return NodeID{}, fmt.Errorf("%w: node %s %w", ErrNameInvalid, quote(s), err)
	}
	return NodeID{folded}, nil
}

// String gives the node's name in lower case, or "" for the zero NodeID.
func (n NodeID) String() string { return n.s }

// IsZero says whether n is the zero NodeID, which is no node.
func (n NodeID) IsZero() bool { return n.s == "" }

// parseLabels checks the grammar that Name, LocalName, NodeID and families
// share, and folds to lower case. Its errors continue a sentence that begins
// with the quoted input.
func parseLabels(s string) (string, error) {
	if s == "" {
		return "", errors.New("is empty: give 1 to 8 labels joined by dots, such as game.lobby")
	}
	if len(s) > MaxNameLen {
		return "", fmt.Errorf("is %d bytes long: %d at most", len(s), MaxNameLen)
	}
	labels, start := 1, 0
	for i := 0; i <= len(s); i++ {
		if i < len(s) && s[i] != '.' {
			if c := s[i]; !isAlnum(c) && c != '_' && c != '-' {
				return "", fmt.Errorf("has %q at byte %d: only ASCII letters, digits, \"_\", \"-\" and dots between labels", s[i:i+1], i)
			}
			continue
		}
		label := s[start:i]
		switch {
		case label == "":
			return "", fmt.Errorf("has an empty label at byte %d", start)
		case len(label) > MaxLabelLen:
			return "", fmt.Errorf("has a label of %d bytes: %d at most", len(label), MaxLabelLen)
		case !isAlnum(label[0]) || !isAlnum(label[len(label)-1]):
			return "", fmt.Errorf("has the label %q: a label begins and ends with a letter or digit", label)
		}
		if i < len(s) {
			labels++
			start = i + 1
		}
	}
	if labels > MaxLabels {
		return "", fmt.Errorf("has %d labels: %d at most", labels, MaxLabels)
	}
	return strings.ToLower(s), nil
}

func isAlnum(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// quote shows input in an error: quoted, so that it cannot forge a log line,
// and cut, so that it cannot flood one.
func quote(s string) string {
	const most = 2 * MaxNameLen
	if len(s) > most {
		return fmt.Sprintf("%q…", s[:most])
	}
	return fmt.Sprintf("%q", s)
}
