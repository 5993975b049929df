package driver

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/seed-6593ebad/skywarden/naming"
)

// What an Inspector says of one thing: it is as it should be, it is not as good
// as it could be, it is bad, or it could not be seen, which is never good.

// Good says that what was looked at is as it should be.
func Good(check, format string, args ...any) naming.Finding {
	return naming.Finding{Level: naming.LevelOK, Check: check, Detail: fmt.Sprintf(format, args...)}
}

// Warn says what is not as good as it could be, and what to do.
func Warn(check, detail, do string) naming.Finding {
	return naming.Finding{Level: naming.LevelWarn, Check: check, Detail: detail, Do: do}
}

// Bad says what does not work or is not safe, and what to do.
func Bad(check, detail, do string) naming.Finding {
	return naming.Finding{Level: naming.LevelFail, Check: check, Detail: detail, Do: do}
}

// Unseen says that something could not be looked at, and why.
func Unseen(check string, err error, do string) naming.Finding {
	return Warn(check, "cannot be seen: "+err.Error(), do)
}

// Clocks may differ by skewLimit: leases and fences reckon with that.
const (
	skewWarning = time.Second
	skewLimit   = 2 * time.Second
)

// Clock compares a server's clock with ours before and after it was asked. date is
// the Date header of its answer, which has full seconds.
func Clock(check, server, date string, before, after time.Time) naming.Finding {
	const do = "let NTP set the clocks of both machines: with more than 2 s between two nodes registrations are refused"
	at, err := http.ParseTime(date)
	if err != nil {
		return Unseen(check, errors.New(server+": its answer has no date"), "compare the clocks by hand: they may differ by 2 s")
	}
	ours := before.Add(after.Sub(before) / 2)
	ahead := at.Add(time.Second / 2).Sub(ours).Round(100 * time.Millisecond)
	detail := fmt.Sprintf("%s: the server's clock is about %v ahead of ours (± 0.5 s)", server, ahead)
	if ahead < 0 {
		detail = fmt.Sprintf("%s: the server's clock is about %v behind ours (± 0.5 s)", server, -ahead)
	}
	switch ahead = ahead.Abs(); {
	case ahead > skewLimit:
		return Bad(check, detail, do)
	case ahead > skewWarning:
		return Warn(check, detail, do)
	}
	return Good(check, "%s", detail)
}
