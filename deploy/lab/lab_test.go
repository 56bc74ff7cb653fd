package lab

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestRabbitComesBackAfterAKill(t *testing.T) {
	t.Parallel()
	comesBack(t, StartRabbit, "3.")
}

func TestRabbit4ComesBackAfterAKill(t *testing.T) {
	t.Parallel()
	comesBack(t, StartRabbit4, "4.")
}

func comesBack(t *testing.T, start func(context.Context, RabbitConfig) (*Rabbit, error), version string) {
	t.Helper()
	began := time.Now()
	r, err := start(t.Context(), RabbitConfig{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	t.Log("started in", time.Since(began))
	var overview struct {
		Version string `json:"rabbitmq_version"`
	}
	if err := r.API(t.Context(), http.MethodGet, "/overview", nil, &overview); err != nil || !strings.HasPrefix(overview.Version, version) {
		t.Fatalf("version %q, %v", overview.Version, err)
	}
	if err := r.NewVhost(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if err := r.DeclareQueue(t.Context(), "a", "q", "quorum"); err != nil {
		t.Fatal(err)
	}
	r.Kill()
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.DeleteQueue(t.Context(), "a", "q"); err != nil {
		t.Fatal("the queue did not survive:", err)
	}
}

func TestSNMPDAnswers(t *testing.T) {
	t.Parallel()
	s, err := StartSNMPD(t.Context(), t.TempDir(), "127.0.0.1", "127.0.0.2", "::1")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
