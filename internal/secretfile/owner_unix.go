//go:build unix

package secretfile

import (
	"io/fs"
	"os"
	"syscall"
)

// isRoots says whether the file belongs to root, and this process does not.
func isRoots(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Uid == 0 && os.Geteuid() != 0
}
