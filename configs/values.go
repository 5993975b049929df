package configs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/seed-6593ebad/skywarden/naming"
)

// A reader reads one file and collects its problems.
type reader struct {
	file     string // for messages and relative paths
	forAdmin bool   // the node's credential is not looked at
	problems []*FileError
}

func (r *reader) report(line, column int, path, format string, args ...any) {
	r.problems = append(r.problems, &FileError{
		File: r.file, Line: line, Column: column, Path: path, What: fmt.Sprintf(format, args...),
	})
}

// A value is a node of the document, with its path.
type value struct {
	r    *reader
	node *yaml.Node
	path string
}

func (v value) report(format string, args ...any) {
	v.r.report(v.node.Line, v.node.Column, v.path, format, args...)
}

// insecure reports a problem that is an ErrInsecureConfig.
func (v value) insecure(format string, args ...any) {
	v.report(format, args...)
	v.r.problems[len(v.r.problems)-1].kind = naming.ErrInsecureConfig
}

// reportAll reports every error of another package that is joined in err; nil is
// none.
func (v value) reportAll(err error) {
	if err == nil {
		return
	}
	errs := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		errs = joined.Unwrap()
	}
	for _, err := range errs {
		report := v.report
		if errors.Is(err, naming.ErrInsecureConfig) {
			report = v.insecure
		}
		report("%s", strings.TrimSuffix(err.Error(), ": "+naming.ErrInsecureConfig.Error()))
	}
}

// An object is a mapping whose keys are known.
type object struct {
	value
	fields map[string]value
}

// object reads a mapping. It reports repeated keys, and those not in known. It
// is false where v is no mapping.
func (v value) object(example string, known ...string) (object, bool) {
	o := object{value: v, fields: make(map[string]value)}
	if v.node.Kind != yaml.MappingNode {
		v.report("%s, and keys are wanted (write it like %s)", v.kind(), example)
		return o, false
	}
	for i := 0; i+1 < len(v.node.Content); i += 2 {
		key, node := v.node.Content[i], v.node.Content[i+1]
		field := value{v.r, node, join2(v.path, key.Value)}
		at := value{v.r, key, v.path}
		switch _, repeated := o.fields[key.Value]; {
		case key.Kind != yaml.ScalarNode:
			at.report("a key is %s (a key is one word: %s)", article(key), strings.Join(known, ", "))
		case !slices.Contains(known, key.Value):
			at.report("unknown key %s (%s)", show(key.Value), choice(key.Value, known))
		case repeated:
			at.report("the key %s is there twice, first in line %d (keep one)", key.Value, o.fields[key.Value].node.Line)
		default:
			o.fields[key.Value] = field
		}
	}
	return o, true
}

func join2(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// has says whether the key is there.
func (o object) has(key string) bool {
	_, ok := o.fields[key]
	return ok
}

// required reports a key that is not there.
func (o object) required(key, example string) {
	if !o.has(key) {
		o.report("%s is missing (add it, such as %s: %s)", key, key, example)
	}
}

// text reads the single value under key by parse, if it is there. The example
// is for messages.
func text[T any](o object, key, example string, into *T, parse func(string) (T, error)) {
	if v, ok := o.fields[key]; ok {
		v.text(example, func(s string) error { return set(into, s, parse) })
	}
}

// texts reads the list of single values under key.
func texts[T any](o object, key, example string, into *[]T, parse func(string) (T, error)) {
	v, ok := o.fields[key]
	if !ok {
		return
	}
	for _, item := range v.list("[" + example + "]") {
		item.text(example, func(s string) error {
			var one T
			err := set(&one, s, parse)
			if err == nil {
				*into = append(*into, one)
			}
			return err
		})
	}
}

func set[T any](into *T, s string, parse func(string) (T, error)) error {
	parsed, err := parse(s)
	if err == nil {
		*into = parsed
	}
	return err
}

// list gives the items of a list.
func (v value) list(example string) []value {
	if v.node.Kind != yaml.SequenceNode {
		v.report("%s, and a list is wanted (write it like %s)", v.kind(), example)
		return nil
	}
	items := make([]value, len(v.node.Content))
	for i, node := range v.node.Content {
		items[i] = value{v.r, node, v.path + "[" + strconv.Itoa(i) + "]"}
	}
	return items
}

// text reads a text, which may also be {env: NAME}, and hands it to parse. An
// error of parse ends the sentence that the value begins: `"x" is not a …`.
func (v value) text(example string, parse func(string) error) {
	s, origin := v.node.Value, ""
	switch {
	case v.node.Kind == yaml.MappingNode:
		name, ok := v.env(example)
		if !ok {
			return
		}
		if s = os.Getenv(name); s == "" {
			v.report("the environment variable %s is not set (set it, or write the value here)", name)
			return
		}
		origin = "the environment variable " + name + ": "
	case v.node.Kind != yaml.ScalarNode:
		v.report("%s, and one value is wanted (write it like %s)", v.kind(), example)
		return
	case v.node.ShortTag() == "!!null":
		v.report("has no value (write it like %s, or remove the key)", example)
		return
	}
	if err := parse(s); err != nil {
		report := v.report
		if errors.Is(err, naming.ErrInsecureConfig) {
			report = v.insecure
		}
		report("%s%s", origin, sentence(err, example))
	}
}

// sentence is err without the sentinel it wraps, because the path says already
// that it is a name or an address, and with an example where it has no advice.
func sentence(err error, example string) string {
	s := err.Error()
	for _, sentinel := range []error{naming.ErrNameInvalid, naming.ErrAddressNotAllowed} {
		s = strings.TrimPrefix(s, sentinel.Error()+": ")
	}
	s = strings.TrimPrefix(s, "node ")
	if !strings.Contains(s, "(") && !strings.Contains(s, "write ") {
		s += " (write it like " + example + ")"
	}
	return s
}

// envName is what a name of an environment variable looks like.
var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// env reads {env: NAME}. It does not look at what the variable holds.
func (v value) env(example string) (string, bool) {
	if len(v.node.Content) != 2 || v.node.Content[0].Value != "env" {
		v.report("is a mapping, and one value is wanted (write it like %s or {env: NAME})", example)
		return "", false
	}
	name := v.node.Content[1]
	if name.Kind != yaml.ScalarNode || !envName.MatchString(name.Value) {
		// Not repeated: who misreads {env: …} may have put a secret here.
		v.report("env wants the name of an environment variable (such as {env: POD_NAME})")
		return "", false
	}
	return name.Value, true
}

// boolean reads true or false.
func (o object) boolean(key string, into *bool) {
	v, ok := o.fields[key]
	if !ok {
		return
	}
	if v.node.ShortTag() != "!!bool" || v.node.Kind != yaml.ScalarNode {
		v.report("%s, and true or false is wanted (write %s: true)", v.kind(), key)
		return
	}
	*into = strings.EqualFold(v.node.Value, "true")
}

// kind says what the value is, as the begin of a sentence.
func (v value) kind() string {
	if v.node.ShortTag() == "!!null" {
		return "has no value"
	}
	return "is " + article(v.node)
}

func article(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch node.ShortTag() {
	case "!!null":
		return "nothing"
	case "!!int", "!!float":
		return "the number " + show(node.Value)
	case "!!bool":
		return "the truth value " + show(node.Value)
	}
	return "the text " + show(node.Value)
}

// relative resolves a path beside the configuration file.
func (r *reader) relative(path string) (string, error) {
	switch {
	case path == "":
		return "", errors.New("is an empty path (write the path of a file)")
	case strings.ContainsAny(path, "\n\r\x00"):
		// Not repeated: it may be the content, and that may be a secret.
		return "", errors.New("is not a path (write the path of a file, not what is in it)")
	case filepath.IsAbs(path):
		return path, nil
	}
	return filepath.Join(filepath.Dir(r.file), path), nil
}
