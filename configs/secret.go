package configs

// secretFile reads {file: PATH}, the reference to a private key. A key that is
// written out is refused and not repeated. Who may read the file is checked when
// it is opened, by tlsfile.
func (v value) secretFile() (path string) {
	const advice = "write {file: PATH}"
	if len(v.node.Content) != 2 {
		v.insecure("is a secret, and secrets are not written into this file (%s)", advice)
		return ""
	}
	switch v.node.Content[0].Value {
	case "file":
		file := value{v.r, v.node.Content[1], v.path + ".file"}
		file.text("node-key.pem", func(s string) (err error) {
			path, err = v.r.relative(s)
			return err
		})
	case "env":
		v.insecure("is a private key, and those are read from a file, so that they can be renewed while the node runs (%s)", advice)
	default:
		v.insecure("is a secret, and secrets are given by reference (%s)", advice)
	}
	return path
}
