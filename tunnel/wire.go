package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// closeLimit is how long a device may take to stop. Stopping it is known to
// hang (reports 85 and 134 of wireguard-go), and a process that ends must not.
const closeLimit = 5 * time.Second

var errStuck = errors.New("the WireGuard device did not stop in time; end the process")

// wire is one WireGuard device over one netstack.
type wire struct {
	dev *device.Device
	net *netstack
}

// openWire starts a device with an identity and no peers.
func openWire(net *netstack, bind conn.Bind, log *device.Logger, key PrivateKey, port uint16) (*wire, error) {
	w := &wire{dev: device.NewDevice(tunDevice{net.link}, bind, log), net: net}
	if err := w.set(deviceText(key, port)); err != nil {
		return nil, errors.Join(err, w.close())
	}
	if err := w.dev.Up(); err != nil {
		return nil, errors.Join(fmt.Errorf("UDP port %d: %w", port, err), w.close())
	}
	return w, nil
}

// close stops the device and then the stack, in this order, so that nothing
// is delivered into a stack that is gone.
func (w *wire) close() error {
	w.sayGoodbye()
	done := make(chan struct{})
	go func() { // ends when the device does; if that hangs, closeLimit gives it up
		defer close(done)
		w.dev.Close()
	}()
	timer := time.NewTimer(closeLimit)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		return errStuck
	}
	w.net.close()
	return nil
}

// sayGoodbye resets the open connections and lets the resets leave, and what
// connections closed just before have still to say: it passes a queue and the
// encryption, and is out when the count of what was sent stands still.
func (w *wire) sayGoodbye() {
	const limit, step, still = 200 * time.Millisecond, 5 * time.Millisecond, 3
	w.net.abort()
	tick := time.NewTicker(step)
	defer tick.Stop()
	last, same := uint64(0), 0
	for range limit / step {
		<-tick.C
		now := w.sent()
		if same++; now != last || len(w.net.link.out) > 0 {
			last, same = now, 0
		}
		if same == still {
			return
		}
	}
}

// sent counts the bytes to all peers.
func (w *wire) sent() (total uint64) {
	for _, state := range w.states() {
		total += state.tx
	}
	return total
}

func (w *wire) states() map[PublicKey]peerState {
	text, err := w.dev.IpcGet()
	if err != nil {
		return nil
	}
	return readState(text)
}

// port is the UDP port that the device listens on; 0: none.
func (w *wire) port() uint16 {
	text, _ := w.dev.IpcGet()
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "listen_port="); ok {
			n, _ := strconv.ParseUint(value, 10, 16)
			return uint16(n)
		}
	}
	return 0
}

func (w *wire) set(text string) error {
	if err := w.dev.IpcSet(text); err != nil {
		return errors.New("the WireGuard device refused a change of its configuration") // its own words may hold a key
	}
	return nil
}

// initiate sends a handshake. With renew the present session is given up, and
// the limit of one initiation in five seconds (RekeyTimeout) does not apply.
func (w *wire) initiate(key PublicKey, renew bool) {
	peer := w.dev.LookupPeer(device.NoisePublicKey(key))
	if peer == nil {
		return
	}
	if renew {
		peer.ExpireCurrentKeypairs()
	}
	_ = peer.SendHandshakeInitiation(false) // a failed send is seen as silence
}

// deviceLog gives the device's lines to slog: its errors as warnings, for the
// tunnel lives on, and the rest as debug. It complains of each packet that
// cannot be sent, and where a firewall of this machine is in the way, that is
// of all of them: the same words are said once in a while.
func deviceLog(ctx context.Context, log *slog.Logger) *device.Logger {
	said := repeats{said: make(map[string]*repeated)}
	return &device.Logger{
		Verbosef: func(format string, args ...any) {
			if log.Enabled(ctx, slog.LevelDebug) && !strings.HasPrefix(format, "Routine: ") {
				log.DebugContext(ctx, "wireguard", "detail", fmt.Sprintf(format, args...))
			}
		},
		Errorf: func(format string, args ...any) {
			detail := fmt.Sprintf(format, args...)
			if held, again := said.hold(detail, time.Now()); !again {
				log.WarnContext(ctx, "wireguard", "detail", detail, "same_before", held)
			}
		},
	}
}

const (
	repeatAfter = time.Minute
	mostRepeats = 1000 // lines that are remembered
)

// repeats holds back lines that were said just now.
type repeats struct {
	mu   sync.Mutex
	said map[string]*repeated // guarded by mu
}

type repeated struct {
	at   time.Time
	held int
}

// hold says whether a line is to be held back; if not, how often it was since
// it was last said.
func (r *repeats) hold(line string, now time.Time) (held int, again bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.said[line]
	if before != nil && now.Sub(before.at) < repeatAfter {
		before.held++
		return 0, true
	}
	if before != nil {
		held = before.held
	} else if len(r.said) >= mostRepeats {
		clear(r.said)
	}
	r.said[line] = &repeated{at: now}
	return held, false
}
