package configs

// Load reads and checks the file at path. Its error is all FileErrors of
// the file, joined. It reads the environment variables that the file names, and
// opens no connection.
//
// Kinds are the kinds of services that the caller can run; a file that has
// services is refused where there are none.
func Load(path string, kinds ...string) (*Config, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return parse(path, data, kinds)
}

// parse is Load of bytes; file is for messages and relative paths.
func parse(file string, data []byte, kinds []string) (*Config, error) {
	r := &reader{file: file}
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
