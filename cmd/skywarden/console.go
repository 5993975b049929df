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
	terminal bool // out is one
	colour   bool
}

// newConsole looks at what stdout is. It has colours on a terminal on which nobody
// objects to them (https://no-color.org).
func newConsole(stdout, stderr io.Writer) *console {
	f, ok := stdout.(*os.File)
	terminal := ok && term.IsTerminal(int(f.Fd()))
	return &console{
		out: stdout, err: stderr, terminal: terminal,
		colour: terminal && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb",
	}
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
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
)

func (c *console) paint(colour, s string) string {
	if !c.colour {
		return s
	}
	return "\x1b[" + colour + "m" + s + "\x1b[0m"
}
