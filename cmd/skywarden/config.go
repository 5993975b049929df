package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/seed-6593ebad/skywarden/configs"
	"github.com/seed-6593ebad/skywarden/naming"
)

// configFlag is the flag of every command that needs a name server.
type configFlag struct {
	Config string `short:"c" required:"" placeholder:"FILE" env:"SKYWARDEN_CONFIG" help:"The configuration file. See configs/memory.yaml, configs/etcd.yaml and configs/consul.yaml."`
}

func (f configFlag) load() (*configs.Config, error) {
	return configs.Load(f.Config, slices.Sorted(maps.Keys(serviceKinds))...)
}

// loadForAdmin reads the file for somebody who does not need the node's own
// credential.
func (f configFlag) loadForAdmin() (*configs.Config, error) {
	return configs.LoadForAdmin(f.Config, slices.Sorted(maps.Keys(serviceKinds))...)
}

// open opens the name server of the file for a command that needs the names of
// other processes.
func (f configFlag) open(ctx context.Context, c *console) (*configs.Config, naming.Backend, error) {
	cfg, err := f.load()
	if err != nil {
		return nil, nil, err
	}
	if cfg.Memory != nil {
		return nil, nil, hintedError{
			fmt.Errorf("%s: the memory backend is inside each process: it has no names of other processes to show, and none to hold for them", f.Config),
			"use a name server that processes share: see configs/etcd.yaml and configs/consul.yaml",
		}
	}
	backend, err := cfg.OpenBackend(ctx, cfg.Logger(c.err))
	if err != nil {
		return nil, nil, err
	}
	return cfg, backend, nil
}

// parseName reads a name of the command line.
func parseName(s string) (naming.Name, error) {
	name, err := naming.ParseName(s)
	if err != nil {
		return naming.Name{}, usageError{err}
	}
	return name, nil
}

// closing adds what the end of something says to err.
func closing(err *error, end func() error) {
	*err = errors.Join(*err, end())
}
