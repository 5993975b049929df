package configs

import (
	"os"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/seed-6593ebad/skywarden/backends/etcd"
)

// secret reads the reference to what, such as "the password": {file: PATH}, or
// {env: NAME} of a variable that holds it. A secret that is written out is refused
// and not repeated. Who may read the file, and what is in it, is checked when it
// is opened, by tlsfile and secretfile. The example is the path of such a file.
func (v value) secret(what, example string) (path string, secret etcd.Secret) {
	const advice = "write {file: PATH} or {env: NAME}"
	reference := ""
	switch {
	case v.node.Kind != yaml.MappingNode:
		v.insecure("is a secret, and secrets are not written into this file (%s)", advice)
		return "", secret
	case len(v.node.Content) == 2:
		reference = v.node.Content[0].Value
	}
	switch reference {
	case "file":
		file := value{v.r, v.node.Content[1], v.path + ".file"}
		file.text(example, func(s string) (err error) {
			path, err = v.r.relative(s)
			return err
		})
	case "env":
		name, ok := v.env("{file: PATH}")
		if !ok {
			return "", secret
		}
		text := os.Getenv(name)
		if strings.TrimSpace(text) == "" && !v.r.forAdmin {
			v.report("the environment variable %s is not set or empty (set it to %s, or write {file: PATH})", name, what)
			return "", secret
		}
		secret = etcd.NewSecret(text)
	default:
		v.insecure("is a secret, and secrets are given by one reference (%s)", advice)
	}
	return path, secret
}
