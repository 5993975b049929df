package configs

// Load reads and checks the file at path. Its error is all FileErrors of
// the file, joined. It reads the environment variables that the file names, and
// opens no connection.
//
// Kinds are the kinds of services that the caller can run; a file that has
// services is refused where there are none.
func Load(path string, kinds ...string) (*Config, error) {
	return (&reader{file: path}).load(kinds)
}

// LoadForAdmin is Load for somebody who needs the file's servers and allow-list
// and not the node's own credential: an administrator has one of his own, and
// makes the node's. The files of credentials need not exist, and are looked at
// when they are used.
func LoadForAdmin(path string, kinds ...string) (*Config, error) {
	return (&reader{file: path, forAdmin: true}).load(kinds)
}

func (r *reader) load(kinds []string) (*Config, error) {
	data, err := readFile(r.file)
	if err != nil {
		return nil, err
	}
	return r.parse(data, kinds)
}

func (r *reader) parse(data []byte, kinds []string) (*Config, error) {
	root, ok := r.parseDocument(data)
	if !ok {
		return nil, join(r.problems)
	}
	c := r.readConfig(value{r: r, node: root}, kinds)
	if len(r.problems) > 0 {
		return nil, join(r.problems)
	}
	return c, nil
}
