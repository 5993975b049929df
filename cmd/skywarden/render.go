package main

import (
	"os"
	"path/filepath"

	"github.com/seed-6593ebad/skywarden/configs"
)

type renderCommand struct {
	configFlag
	To     string   `placeholder:"SERVER" help:"The server that the files are for, etcd or consul. Default: that of the configuration file."`
	Out    string   `placeholder:"DIR" help:"Write the files into this directory, which is made if need be. Default: print them."`
	Reader []string `sep:"none" placeholder:"PRINCIPAL" help:"Somebody who owns nothing and may look up what everybody may, such as a client. Can be repeated."`
}

// Run connects to nobody.
func (cmd *renderCommand) Run(c *console) error {
	cfg, err := cmd.loadForAdmin()
	if err != nil {
		return err
	}
	grants, err := cfg.Grants(cmd.Reader...)
	if err != nil {
		return err
	}
	to := cmd.To
	if to == "" {
		to = cfg.Driver()
	}
	files, err := configs.Render(to, cfg.Root(), grants)
	if err != nil {
		return err
	}
	for i, f := range files {
		if cmd.Out == "" {
			if len(files) > 1 {
				if i > 0 {
					c.printf("\n")
				}
				c.printf("# %s\n", f.Name)
			}
			c.printf("%s", f.Content)
			continue
		}
		path := filepath.Join(cmd.Out, filepath.FromSlash(f.Name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // nothing in it is secret
			return err
		}
		if err := os.WriteFile(path, f.Content, 0o644); err != nil { //nolint:gosec // nothing in it is secret
			return err
		}
		c.printf("%s\n", path)
	}
	return nil
}
