package memory

import (
	"fmt"
	"io"
)

const credentialLen = 32

// A Credential proves to a Server who its holder is: 256 random bits, which can
// only be had from Server.Grant. It is printed as "[redacted]" everywhere. The
// zero Credential is nobody's.
type Credential struct {
	// A pointer, because fmt cannot call methods on unexported fields of other
	// people's structs: there it prints an address instead of the secret.
	secret *[credentialLen]byte
}

const redacted = "[redacted]"

// String gives "[redacted]".
func (Credential) String() string { return redacted }

// Format prints "[redacted]" for every verb.
func (Credential) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText gives "[redacted]", for JSON and loggers.
func (Credential) MarshalText() ([]byte, error) { return []byte(redacted), nil }
