package broker

import (
	"testing"

	"usm-satellite/deploy/lab"
)

// rabbit is a real broker, and who its administrator is.
type rabbit struct {
	dsn        DSN
	management string
}

func startRabbit(t *testing.T) rabbit {
	t.Helper()
	node, err := lab.StartRabbit(t.Context(), lab.RabbitConfig{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = node.Close() })
	dsn, err := ParseDSN(node.DSN("/"))
	if err != nil {
		t.Fatal(err)
	}
	return rabbit{dsn, node.ManagementURL()}
}
