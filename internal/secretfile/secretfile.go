// Package secretfile reads a secret of one line, such as a password or a token,
// from a file, and follows the file when it changes.
//
// It also holds what every file of credentials needs: the Secret that nothing
// prints, and Read, which checks who else may have a file.
//
// It is not for certificates and keys, which belong together: see tlsfile.
package secretfile

import (
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// maxSecret is far above the length of any password or token.
const maxSecret = 4 << 10

// A Source gives the secret that a file holds. It is safe for concurrent use.
type Source struct {
	what, path string
	report     func(error)

	mu      sync.Mutex
	secret  Secret
	file    fs.FileInfo // as it was when secret was read
	settled bool        // the file cannot have changed since without looking different
	trouble string      // what was reported last; "" when all is well
}

// Open reads the secret in the file path; what names it in errors, such as
// "password". The file
//
//   - must be regular, and on Unix nobody but its owner may have any access to it
//     (but the group of a file of root's may read it, as Kubernetes mounts Secrets),
//     or the error wraps naming.ErrInsecureConfig. On Windows permissions are not
//     looked at. Symbolic links are followed, because Kubernetes mounts secrets
//     as links: the file behind them is checked, and is the one that is read;
//   - has 4 KiB at most and holds one line of UTF-8 without control characters.
//     Line breaks at its end do not belong to the secret; spaces do.
//
// No error has anything of the content in it.
//
// report is called when the file has changed and cannot be used, once per
// reason, and with nil when it can be used again. Until then the last good secret
// stays in use. It must return soon and not call the Source; nil means that
// nobody wants to know.
func Open(what, path string, report func(error)) (*Source, error) {
	if report == nil {
		report = func(error) {}
	}
	s := &Source{what: what, path: path, report: report}
	if err := s.read(); err != nil {
		return nil, err
	}
	return s, nil
}

// Get gives the secret as the file says now, or as it last said. It looks at the
// file each time, which costs a few microseconds, and reads it when it has
// changed. As long as the content is the same Get gives equal Secrets, so that
// s.Get() != before means: there is a new one.
func (s *Source) Get() Secret {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.settled && s.trouble == "" && Unchanged(s.path, s.file) {
		return s.secret
	}
	trouble := ""
	err := s.read()
	if err != nil {
		trouble = err.Error()
	}
	if trouble != s.trouble {
		s.trouble = trouble
		s.report(err)
	}
	return s.secret
}

// clockStep is longer than the steps in which file systems count time.
const clockStep = 2 * time.Second

func (s *Source) read() error {
	now := time.Now()
	data, file, err := Read(s.what, s.path, OwnerOnly, maxSecret)
	if err != nil {
		return err
	}
	text := strings.TrimRight(string(data), "\r\n")
	switch {
	case text == "":
		return fmt.Errorf("%s %q is empty", s.what, s.path)
	case !utf8.ValidString(text):
		return fmt.Errorf("%s %q is not text in UTF-8", s.what, s.path)
	case strings.ContainsFunc(text, unicode.IsControl):
		return fmt.Errorf("%s %q has several lines or control characters: store the %s alone in it", s.what, s.path, s.what)
	}
	if text != Reveal(s.secret) {
		s.secret = NewSecret(text)
	}
	// Who writes twice within one step of the clock leaves the same time twice.
	s.file, s.settled = file, now.Sub(file.ModTime()) > clockStep
	return nil
}

// Unchanged says whether the file path is still the one that info describes,
// with the same size and time of writing.
func Unchanged(path string, info fs.FileInfo) bool {
	now, err := os.Stat(path)
	return err == nil && os.SameFile(now, info) && now.Size() == info.Size() && now.ModTime().Equal(info.ModTime())
}
