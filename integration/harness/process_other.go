//go:build !linux

package harness

import "syscall"

// childAttributes are Linux's affair: elsewhere a server outlives a test
// process that is killed.
func childAttributes() *syscall.SysProcAttr { return nil }
