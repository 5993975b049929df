package configs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"
)

// maxFileSize is far above any configuration that a person writes.
const maxFileSize = 1 << 20

// maxDepth is twice what the deepest value of a configuration needs.
const maxDepth = 16

// readFile reads a file that must be small.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, &FileError{File: path, What: reason(err) + " (give the path of a configuration file)"}
	}
	defer func() { _ = f.Close() }() // it was only read
	data, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return nil, &FileError{File: path, What: reason(err) + " (give the path of a configuration file)"}
	}
	if len(data) > maxFileSize {
		return nil, &FileError{File: path, What: fmt.Sprintf("is larger than %d bytes (this is not a configuration file)", maxFileSize)}
	}
	return data, nil
}

// reason is err without the path, which the message begins with already.
func reason(err error) string {
	if errors.Is(err, fs.ErrNotExist) {
		return "does not exist"
	}
	if pathErr, ok := errors.AsType[*os.PathError](err); ok {
		err = pathErr.Err
	}
	return err.Error()
}

// parseDocument parses the one YAML document of a file, in the subset that a
// configuration needs: UTF-8, no anchors, aliases or tags, no deep nesting. So
// what is written is what is meant, and nothing grows while it is read.
func (r *reader) parseDocument(data []byte) (*yaml.Node, bool) {
	if !r.checkText(data) {
		return nil, false
	}
	loader, err := yaml.NewLoader(bytes.NewReader(data),
		yaml.WithUniqueKeys(false), // told by object, all of them and in one form
		yaml.WithPlugin(loaderlimits.New(loaderlimits.DepthValue(maxDepth))))
	if err != nil {
		r.report(1, 1, "", "%v", err)
		return nil, false
	}
	var doc, second yaml.Node
	switch err := loader.Load(&doc); {
	case errors.Is(err, io.EOF):
		r.report(1, 1, "", "is empty (see configs/memory.yaml for a first configuration)")
		return nil, false
	case err != nil:
		r.reportSyntax(data, err)
		return nil, false
	}
	switch err := loader.Load(&second); {
	case err == nil:
		r.report(second.Line, second.Column, "", "a second document begins here (one file is one document: remove the ---)")
	case !errors.Is(err, io.EOF):
		r.reportSyntax(data, err)
	}
	root := doc.Content[0]
	if root.ShortTag() == "!!null" {
		r.report(1, 1, "", "is empty (see configs/memory.yaml for a first configuration)")
		return nil, false
	}
	r.refuseIndirection(root)
	return root, len(r.problems) == 0
}

// checkText finds what the parser refuses without a position.
func (r *reader) checkText(data []byte) bool {
	line, column := 1, 1
	for len(data) > 0 {
		c, size := utf8.DecodeRune(data)
		switch {
		case c == utf8.RuneError && size == 1:
			r.report(line, column, "", "is not UTF-8 text (save the file as UTF-8)")
			return false
		case c < ' ' && c != '\n' && c != '\r' && c != '\t', c >= 0x7f && c < 0xa0 && c != 0x85, c == 0xfffe, c == 0xffff:
			r.report(line, column, "", "has the control character %U (remove it)", c)
			return false
		}
		data = data[size:]
		column++
		if c == '\n' {
			line, column = line+1, 1
		}
	}
	return true
}

// bareIPv6 matches an IPv6 endpoint where YAML sees a list.
var bareIPv6 = regexp.MustCompile(`[:\s]\[[0-9a-fA-F:.]+\]:\d`)

// reportSyntax tells a syntax error in the parser's words and at its position,
// with a better hint for the mistakes that are common.
func (r *reader) reportSyntax(data []byte, err error) {
	line, column, what := 1, 1, err.Error()
	if load, ok := errors.AsType[*yaml.LoadError](err); ok {
		mark := load.Mark
		if load.Message == "found unexpected end of stream" && load.ContextMark.Line > 0 {
			mark = load.ContextMark // what was never closed
		}
		line, column, what = max(mark.Line, 1), max(mark.Column, 1), load.Message
		if load.ContextMsg != "" {
			what += " " + load.ContextMsg
		}
	}
	hint := "correct the YAML here or above"
	lines := strings.Split(string(data), "\n")
	if line <= len(lines) {
		text := lines[line-1]
		indentation := text[:len(text)-len(strings.TrimLeft(text, " \t"))]
		switch {
		case strings.Contains(indentation, "\t"):
			hint = "indent with spaces: YAML takes no tabs"
		case bareIPv6.MatchString(text):
			hint = `put an IPv6 endpoint in quotes: "[fd00::5]:7000"`
		case strings.Contains(what, "exceeded max depth"):
			hint = "no configuration is nested so deeply"
		}
	}
	r.report(line, column, "", "is not YAML: %s (%s)", what, hint)
}

// refuseIndirection reports anchors, aliases and explicit tags below node.
func (r *reader) refuseIndirection(node *yaml.Node) {
	switch {
	case node.Kind == yaml.AliasNode:
		r.report(node.Line, node.Column, "", "has an alias (write the value out: anchors and aliases are not accepted)")
	case node.Anchor != "":
		r.report(node.Line, node.Column, "", "has an anchor (write the value out: anchors and aliases are not accepted)")
	case node.Style&yaml.TaggedStyle != 0:
		r.report(node.Line, node.Column, "", "has the tag %s (remove it: the key says the type)", show(node.Tag))
	}
	for child := range slices.Values(node.Content) {
		r.refuseIndirection(child)
	}
}
