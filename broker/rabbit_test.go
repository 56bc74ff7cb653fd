package broker

import (
	"testing"
)

type rabbit struct {
	dsn        DSN
	management string
}

func startRabbit(t *testing.T) rabbit {
	t.Helper()
	dsn, err := ParseDSN("amqp://guest:guest@127.0.0.1:15690/%2f")
	if err != nil {
		t.Fatal(err)
	}
	return rabbit{dsn, "http://127.0.0.1:15691"}
}
