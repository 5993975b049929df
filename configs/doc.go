// Package configs reads a YAML file and gives the running node that the file
// describes. It is strict: a file is refused with everything that is wrong with
// it, each with file, line, column and what to do.
//
// It is for programs that are configured by files. It is the only package that
// imports every backend and YAML; a program that is configured in Go calls
// skywarden.New and does without it. Whatever a file can say can be said there.
//
// The samples memory.yaml, etcd.yaml and consul.yaml document every key. They are
// part of the package, as MemorySample, EtcdSample and ConsulSample.
package configs
