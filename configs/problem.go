package configs

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/seed-6593ebad/skywarden/naming"
)

// A FileError is one thing that is wrong with a file. Load returns all of a
// file's problems, joined with errors.Join, in the order of their positions;
// each is one line.
type FileError struct {
	File   string
	Line   int    // from 1; 0: the file as a whole
	Column int    // from 1, in characters
	Path   string // which value: "allow[0].ports[1]"; empty: the document
	What   string // what is wrong and, in parentheses, what to do

	kind error // a sentinel of package naming, or nil
}

// Error gives "file:line:column: path: what is wrong (what to do)".
func (p *FileError) Error() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	b.WriteString(": ")
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.What)
	return b.String()
}

// Unwrap gives naming.ErrInsecureConfig for a problem that would make the node
// unsafe, nil for others.
func (p *FileError) Unwrap() error { return p.kind }

// join puts the problems into the order of their positions.
func join(problems []*FileError) error {
	slices.SortStableFunc(problems, func(a, b *FileError) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	errs := make([]error, len(problems))
	for i, p := range problems {
		errs[i] = p
	}
	return errors.Join(errs...)
}

// show quotes a piece of a file for a message: it cannot forge a line or flood
// the screen, and a private key that was pasted in is not repeated.
func show(s string) string {
	const most = 80
	switch {
	case strings.Contains(s, "PRIVATE KEY"):
		return "[redacted]"
	case utf8.RuneCountInString(s) > most:
		return fmt.Sprintf("%q…", string([]rune(s)[:most]))
	}
	return fmt.Sprintf("%q", s)
}

// choice is the advice for a word that is not in known.
func choice(word string, known []string) string {
	if len(known) == 0 {
		return "there are none here"
	}
	if better := didYouMean(word, known); better != "" {
		return "did you mean " + better + "?"
	}
	return "write one of " + strings.Join(known, ", ")
}

// didYouMean finds the one of known that word is most probably a misspelling
// of, or "": at most two letters are wrong, and three at least are right.
func didYouMean(word string, known []string) string {
	best, bestDistance := "", 3
	for _, k := range known {
		if d := distance(strings.ToLower(word), k); d < bestDistance && d+3 <= len(k) {
			best, bestDistance = k, d
		}
	}
	return best
}

// distance counts the letters to insert, delete, replace or swap with their
// neighbour to get from a to b. Long words are far from everything.
func distance(a, b string) int {
	if len(a) > 40 || len(b) > 40 {
		return 40
	}
	// Three rows of the usual table: a swap looks two rows back.
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replace := last[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			row[j] = min(replace, last[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

// An insecureError is an error of a parser whose FileError is to wrap
// naming.ErrInsecureConfig.
type insecureError struct{ error }

func (insecureError) Unwrap() error { return naming.ErrInsecureConfig }
