package harness

import (
	"errors"
	"os"
)

var errNoSignals = errors.New("a process cannot be paused on windows (run the servers in containers)")

func suspend(*os.Process) error     { return errNoSignals }
func resume(*os.Process) error      { return errNoSignals }
func terminate(p *os.Process) error { return p.Kill() }
