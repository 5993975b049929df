package harness

import "syscall"

// childAttributes lets a server die with the test process, also when that is
// killed or panics at its time limit.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
