package secretfile

import (
	"fmt"
	"io"
)

// A Secret is a text that is printed as "[redacted]" everywhere: by fmt with
// every verb, in JSON and by loggers. It is made by NewSecret. The zero Secret is
// none. Two Secrets are equal if they came of the same call of NewSecret.
type Secret struct {
	// A pointer, because fmt cannot call methods on unexported fields of other
	// people's structs: there it prints an address instead of the secret.
	text *string
}

// NewSecret hides text. An empty text is no Secret: the zero one.
func NewSecret(text string) Secret {
	if text == "" {
		return Secret{}
	}
	return Secret{&text}
}

// Reveal gives the text. It is a function of this package, and no method, so
// that whoever uses the module gets no way to print a Secret.
func Reveal(s Secret) string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

const redacted = "[redacted]"

// String gives "[redacted]".
func (Secret) String() string { return redacted }

// Format prints "[redacted]" for every verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText gives "[redacted]", for JSON and loggers.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
