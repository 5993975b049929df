package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"
)

// A console is where a command writes.
type console struct {
	out, err io.Writer
	colour   bool
}

// takesColour says whether w is a terminal on which nobody objects to colours
// (https://no-color.org).
func takesColour(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}

func (c *console) printf(format string, args ...any) {
	_, _ = fmt.Fprintf(c.out, format, args...) // a reader who has gone needs nothing more
}

// json writes v as one line.
func (c *console) json(v any) error {
	return json.NewEncoder(c.out).Encode(v)
}

// Colours of SGR escape sequences.
const (
	bold  = "1"
	dim   = "2"
	red   = "31"
	green = "32"
)

func (c *console) paint(colour, s string) string {
	if !c.colour {
		return s
	}
	return "\x1b[" + colour + "m" + s + "\x1b[0m"
}
