package consul

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/seed-6593ebad/skywarden/internal/secretfile"
)

// maxTokenFile is far above the length of a token.
const maxTokenFile = 4 << 10

// A tokenFile is what is there now.
type tokenFile struct {
	exists bool
	secret string
	loose  fs.FileMode // the mode, if others than the owner have any access
}

func readTokenFile(path string) (tokenFile, error) {
	// Access of others is no error here: to see it is what the file is read for.
	data, info, err := secretfile.Read("token file", path, 0, maxTokenFile)
	if errors.Is(err, fs.ErrNotExist) {
		return tokenFile{}, nil
	}
	if err != nil {
		return tokenFile{}, err
	}
	is := tokenFile{exists: true, secret: strings.TrimSpace(string(data))}
	if mode := info.Mode().Perm(); mode&fs.FileMode(secretfile.OwnerOnly) != 0 && runtime.GOOS != "windows" {
		is.loose = mode
	}
	return is, nil
}

// writeTokenFile puts a new file in the place of what is there. Nobody sees half
// of it, and nobody but its owner sees any of it. The directory is made if need
// be.
func writeTokenFile(path, secret string) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("token file: %w", err)
	}
	file, err := os.CreateTemp(dir, ".token-*") // mode 0600
	if err != nil {
		return fmt.Errorf("token file: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(file.Name()) // there is an error already
			err = fmt.Errorf("token file: %w", err)
		}
	}()
	_, err = file.WriteString(secret + "\n")
	if err == nil {
		err = file.Sync()
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}
