package configs

import (
	"fmt"
	"os"
	"runtime"
)

// secretFile reads {file: PATH}, the reference to a private key, and checks the
// file. A key that is written out is refused and not repeated.
func (v value) secretFile() string {
	const advice = "write {file: PATH}"
	if v.node.Content == nil || len(v.node.Content) != 2 {
		v.insecure("is a secret, and secrets are not written into this file (%s)", advice)
		return ""
	}
	switch v.node.Content[0].Value {
	case "file":
	case "env":
		v.insecure("is a private key, and those are read from a file, so that they can be renewed while the node runs (%s)", advice)
		return ""
	default:
		v.insecure("is a secret, and secrets are given by reference (%s)", advice)
		return ""
	}
	var path string
	file := value{v.r, v.node.Content[1], v.path + ".file"}
	file.text("node-key.pem", func(s string) (err error) {
		if path, err = v.r.relative(s); err != nil {
			return err
		}
		return checkSecretFile(path)
	})
	return path
}

// checkSecretFile looks at the opened file, not at its name, so that what was
// checked is what would be read.
func checkSecretFile(path string) error {
	f, err := os.Open(path) //nolint:gosec // the operator names the file
	if err != nil {
		return fmt.Errorf("%s: %s (put the private key there)", show(path), reason(err))
	}
	defer func() { _ = f.Close() }() // it was only read
	info, err := f.Stat()
	switch {
	case err != nil:
		return fmt.Errorf("%s: %s (put the private key there)", show(path), reason(err))
	case !info.Mode().IsRegular():
		return insecureError{fmt.Errorf("%s is not a regular file (put the private key there)", show(path))}
	case runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0:
		return insecureError{fmt.Errorf("%s may be read or written by others, mode %04o (chmod 600 %s)", show(path), info.Mode().Perm(), path)}
	}
	return nil
}
