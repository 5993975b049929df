package secretfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"syscall"

	"github.com/seed-6593ebad/skywarden/naming"
)

// Access is what nobody but a file's owner may do: the bits of its mode that
// must not be set.
type Access fs.FileMode

// Kinds of Access.
const (
	OwnerOnly   Access = 0o077 // nobody else may read or write it; but see excess
	OwnerWrites Access = 0o022 // nobody else may write it
)

// Read opens a file, checks the descriptor and not the path, so that what was
// checked is what is read, and gives the content, limit bytes at most. Its
// errors begin with what and the path. They wrap naming.ErrInsecureConfig where
// the file is not regular, or others may do more than access allows. On Windows
// permissions are not looked at.
func Read(what, path string, access Access, limit int) ([]byte, fs.FileInfo, error) {
	if path == "" {
		return nil, nil, fmt.Errorf("%s: no file is given", what)
	}
	if strings.ContainsAny(path, "\n\r") {
		// Not repeated: it may be the secret.
		return nil, nil, fmt.Errorf("%s: the name of the file has a line break: give the path of a file, not what is in it", what)
	}
	bad := func(err error) ([]byte, fs.FileInfo, error) { return nil, nil, fmt.Errorf("%s %q %w", what, path, err) }
	// Without O_NONBLOCK opening a named pipe would wait for its other end.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) //nolint:gosec // reading the file that the operator names is the purpose
	if err != nil {
		if path, ok := errors.AsType[*fs.PathError](err); ok {
			err = path.Err
		}
		return bad(fmt.Errorf("cannot be opened: %w", err))
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return bad(fmt.Errorf("cannot be examined: %w", err))
	}
	if !info.Mode().IsRegular() {
		return bad(fmt.Errorf("is not a regular file: %w", naming.ErrInsecureConfig))
	}
	if excess(info.Mode(), access, isRoots(info)) != 0 && runtime.GOOS != "windows" {
		advice := "nobody but its owner may write it: chmod go-w"
		if access == OwnerOnly {
			advice = "nobody but its owner may have access to it: chmod go-rwx"
		}
		return bad(fmt.Errorf("has mode %04o, %s: %w", info.Mode().Perm(), advice, naming.ErrInsecureConfig))
	}
	data, err := io.ReadAll(io.LimitReader(file, int64(limit)+1))
	if err != nil {
		return bad(fmt.Errorf("cannot be read: %w", err))
	}
	if len(data) > limit {
		return bad(fmt.Errorf("is larger than %d bytes", limit))
	}
	return data, info, nil
}

// excess gives the bits of mode that access forbids. A file of root's may be read
// by its group where this process is not root: so Kubernetes gives a Secret to a
// pod with an fsGroup, and there is no other way for it to be read.
func excess(mode fs.FileMode, access Access, isRoots bool) fs.FileMode {
	if isRoots && access == OwnerOnly {
		access &^= 0o040
	}
	return mode.Perm() & fs.FileMode(access)
}
