package secureshell

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"usm-satellite/deploy/lab"
	"usm-satellite/jobs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testDialer(t *testing.T) *Dialer {
	t.Helper()
	network := &jobs.Network{Policy: &jobs.Policy{Targets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}}
	return New(Options{Network: network, StateDir: t.TempDir()})
}

func request(port int) Request {
	return Request{Address: "127.0.0.1", Port: port, Credentials: []jobs.Credential{{Login: &jobs.LoginCredential{
		Username: lab.ConsoleUser, Password: jobs.NewSecret(lab.ConsolePassword),
	}}}}
}

// TestSilentDevicesHoldNoHandshake fills the dialer with logins to devices
// that say nothing: a good device must still be let in, although only one
// handshake may compute at a time.
func TestSilentDevicesHoldNoHandshake(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 20)
	go func() { // ends when l closes
		for {
			conn, err := l.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- conn
		}
	}()
	server, err := lab.StartSSHD(t.Context(), t.TempDir(), lab.SSHDConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	d := testDialer(t)
	d.cpu = make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for range 20 {
		wg.Go(func() {
			if _, err := d.Dial(ctx, request(l.Addr().(*net.TCPAddr).Port)); err == nil {
				t.Error("a silent device let us in")
			}
		})
	}
	var silent []net.Conn
	for range 20 {
		silent = append(silent, <-accepted)
	}
	var good sync.WaitGroup
	for range 8 {
		good.Go(func() {
			client, err := d.Dial(ctx, request(server.Port))
			if err != nil {
				t.Errorf("a good device: %v", err)
				return
			}
			client.End()
		})
	}
	good.Wait()
	if len(d.cpu) != 0 && ctx.Err() == nil {
		t.Errorf("%d tokens are held by nobody who computes", len(d.cpu))
	}
	for _, conn := range silent {
		conn.Close()
	}
}

// TestDialIsBounded is the trap of ssh.Dial: a peer that
// speaks and never comes to the end.
func TestDialIsBounded(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() { // ends when l closes
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				go io.Copy(io.Discard, conn)
				for {
					if _, err := io.WriteString(conn, "banner line before the version\r\n"); err != nil {
						return
					}
					time.Sleep(10 * time.Millisecond)
				}
			}()
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = testDialer(t).Dial(ctx, request(l.Addr().(*net.TCPAddr).Port))
	if fault := jobs.FaultOf(t.Context(), err); err == nil || fault.Code != jobs.CodeTimeout || fault.Stage != jobs.StageConnect {
		t.Errorf("got %v", err)
	}
}
