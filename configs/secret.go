package configs

import (
	"os"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/seed-6593ebad/skywarden/backends/etcd"
)

// privateKey reads the reference to a private key: {file: PATH}, or {env: NAME}
// of a variable that holds its PEM. A key that is written out is refused and not
// repeated. Who may read the file, and whether it is a key, is checked when it is
// opened, by tlsfile.
func (v value) privateKey() (path string, key etcd.Secret) {
	const advice = "write {file: PATH} or {env: NAME}"
	reference := ""
	switch {
	case v.node.Kind != yaml.MappingNode:
		v.insecure("is a secret, and secrets are not written into this file (%s)", advice)
		return "", key
	case len(v.node.Content) == 2:
		reference = v.node.Content[0].Value
	}
	switch reference {
	case "file":
		file := value{v.r, v.node.Content[1], v.path + ".file"}
		file.text("node-key.pem", func(s string) (err error) {
			path, err = v.r.relative(s)
			return err
		})
	case "env":
		name, ok := v.env("{file: PATH}")
		if !ok {
			return "", key
		}
		pem := os.Getenv(name)
		if strings.TrimSpace(pem) == "" {
			v.report("the environment variable %s is not set or empty (set it to the private key in PEM, or write {file: PATH})", name)
			return "", key
		}
		key = etcd.NewSecret(pem)
	default:
		v.insecure("is a secret, and secrets are given by one reference (%s)", advice)
	}
	return path, key
}
