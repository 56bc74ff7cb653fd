package chaos

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"usm-satellite/deploy/chaos/ledger"
	"usm-satellite/deploy/lab"
	"usm-satellite/tunnel/impair"
)

// site is all that takes part in a run.
type site struct {
	dir      string
	rabbit   *lab.Rabbit
	line     *impair.Line  // of the odd replicas, to the broker
	tunnel   *impair.Proxy // of the even ones, to the hub
	hubAt    string
	hub      *process
	replicas []*process
	core     *core

	published, device, results, faults *ledger.Log
	counts                             counts

	errs   chan error // the first error that makes the run worthless
	closer []func()
}

func (s *site) failed(err error) {
	select {
	case s.errs <- err:
	default:
	}
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

func (s *site) onEnd(f func()) { s.closer = append(s.closer, f) }

func (s *site) end() {
	for _, f := range slices.Backward(s.closer) {
		f()
	}
}

// build starts everything.
func (s *site) build(ctx context.Context, o Options) error {
	return s.prepare(ctx, o, s.startDevices, s.startLines, s.startHub, s.startReplicas)
}

// prepare makes the folders, opens the logs, starts the broker and takes
// further steps.
func (s *site) prepare(ctx context.Context, o Options, steps ...func(context.Context, Options) error) error {
	for _, dir := range []string{"state", "hub", "out", "ledger", "rabbit"} {
		if err := os.MkdirAll(s.path(dir), 0o700); err != nil {
			return err
		}
	}
	for _, step := range append([]func(context.Context, Options) error{s.openLogs, s.startBroker}, steps...) {
		if err := step(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

func (s *site) openLogs(context.Context, Options) (err error) {
	for name, log := range map[string]**ledger.Log{
		ledger.PublishedLog: &s.published, ledger.DeviceLog: &s.device,
		ledger.ResultsLog: &s.results, ledger.FaultsLog: &s.faults,
	} {
		if *log, err = ledger.OpenLog(s.path("ledger"), name); err != nil {
			return err
		}
		s.onEnd(func() { _ = (*log).Close() })
	}
	return nil
}

func (s *site) startBroker(ctx context.Context, _ Options) (err error) {
	if s.rabbit, err = lab.StartRabbit(ctx, lab.RabbitConfig{Dir: s.path("rabbit")}); err != nil {
		return err
	}
	s.onEnd(func() { _ = s.rabbit.Close() })
	for _, queue := range []string{jobQueue, resultQueue} {
		if err := s.rabbit.DeclareQueue(ctx, "/", queue, "quorum"); err != nil {
			return err
		}
	}
	return nil
}

func (s *site) startDevices(_ context.Context, o Options) error {
	port := lab.Port()
	for i, address := range []string{"127.0.0.1", trapAddress} {
		d := &device{forbidden: address == trapAddress, rng: mathrand.New(mathrand.NewPCG(o.Seed, uint64(100+i)))}
		if err := s.startDevice(d, address, port); err != nil {
			return err
		}
	}
	s.newCore(port, o.Seed)
	return nil
}

func (s *site) startDevice(d *device, address string, port int) error {
	conn, err := net.ListenPacket("udp", net.JoinHostPort(address, strconv.Itoa(port)))
	if err != nil {
		return err
	}
	d.conn, d.log, d.faults, d.failed = conn, s.device, s.faults, s.failed
	done := make(chan struct{})
	go func() { // ends with its connection
		defer close(done)
		d.serve()
	}()
	s.onEnd(func() {
		_ = conn.Close()
		<-done
	})
	return nil
}

func (s *site) newCore(devicePort int, seed uint64) {
	s.core = &core{
		dsn: s.rabbit.DSN("/"), devicePort: devicePort, published: s.published, results: s.results, failed: s.failed,
		rng: mathrand.New(mathrand.NewPCG(seed, 200)), pending: map[string]jobState{},
	}
}

func (s *site) startLines(ctx context.Context, o Options) (err error) {
	if s.line, err = impair.ListenTCP(ctx, o.Seed, s.brokerAt()); err != nil {
		return err
	}
	s.onEnd(func() { _ = s.line.Close() })
	s.hubAt = net.JoinHostPort("127.0.0.1", strconv.Itoa(lab.Port()))
	if s.tunnel, err = impair.Listen(o.Seed, s.hubAt); err != nil {
		return err
	}
	s.onEnd(func() { _ = s.tunnel.Close() })
	return nil
}

func (s *site) brokerAt() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.rabbit.Port)) }

// newKey makes a WireGuard key pair (Curve25519, in base64).
func newKey() (private, public string, err error) {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return "", "", err
	}
	encode := base64.StdEncoding.EncodeToString
	return encode(key.Bytes()), encode(key.PublicKey().Bytes()), nil
}

func (s *site) startHub(_ context.Context, o Options) error {
	hubPrivate, hubPublic, err := newKey()
	if err != nil {
		return err
	}
	var peers strings.Builder
	for i := range max(2, o.Replicas) / 2 {
		private, public, err := newKey()
		if err != nil {
			return err
		}
		address := fmt.Sprintf("10.77.0.%d/32", 7+i)
		fmt.Fprintf(&peers, "[Peer]\nPublicKey = %s\nAllowedIPs = %s\n\n", public, address)
		s.replicas = append(s.replicas, &process{name: "a replica on a plain line", env: []string{
			fmt.Sprintf("US_AMQP_DSN=amqp://%s:%s@%s/", lab.RabbitUser, lab.RabbitPassword, s.line.Addr()),
		}}, &process{name: "a replica behind the tunnel", env: []string{
			fmt.Sprintf("US_AMQP_DSN=amqp://%s:%s@10.77.0.1:5672/", lab.RabbitUser, lab.RabbitPassword),
			"USM_WG_PRIVATE_KEY=" + private, "USM_WG_ADDRESS=" + address, "USM_WG_PEER_PUBLIC_KEY=" + hubPublic,
			"USM_WG_ENDPOINT=" + s.tunnel.Addr(), "USM_WG_ALLOWED_IPS=10.77.0.1/32",
		}})
	}
	if err := os.WriteFile(s.path("peers.conf"), []byte(peers.String()), 0o600); err != nil {
		return err
	}
	s.hub = &process{name: "the hub", binary: o.Binary, args: []string{"hub"}, log: s.path("out/hub.log"), env: []string{
		"USM_HUB_LISTEN=" + s.hubAt, "USM_HUB_PRIVATE_KEY=" + hubPrivate, "USM_HUB_ADDRESS=10.77.0.1",
		"USM_HUB_PORT=5672", "USM_HUB_BROKER=" + s.brokerAt(), "USM_HUB_PEERS_FILE=" + s.path("peers.conf"), "USM_STATE_DIR=" + s.path("hub"),
	}}
	return s.run(s.hub)
}

func (s *site) startReplicas(_ context.Context, o Options) error {
	for i, p := range s.replicas {
		p.binary, p.args, p.log = o.Binary, []string{"run"}, s.path("out/replica-"+strconv.Itoa(i+1)+".log")
		p.env = append(p.env, "USM_POLLER_SATELLITE_ID=7", "USM_STATE_DIR="+s.path("state"), "USM_ALLOW_TARGETS=127.0.0.1/32",
			"USM_CONCURRENCY=16", "USM_DRAIN_TIMEOUT=10s", "USM_LOG_FORMAT=json")
		if err := s.run(p); err != nil {
			return err
		}
	}
	return nil
}

// run starts a process that is ended, if need be, with the site.
func (s *site) run(p *process) error {
	err := p.start()
	if err == nil {
		s.onEnd(func() {
			p.signal(15)
			p.wait(15 * time.Second)
		})
	}
	return err
}
