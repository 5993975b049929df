//go:build unix

package e2e

import (
	"testing"

	"github.com/seed-6593ebad/skywarden/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
