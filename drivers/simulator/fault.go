package simulator

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// Fault is a way in which a service misbehaves.
type Fault string

// The faults.
const (
	Refuse  Fault = "refuse"  // nothing listens
	Hang    Fault = "hang"    // listens and never says a word
	Drip    Fault = "drip"    // a byte at a time; SNMP: each answer late
	Garble  Fault = "garble"  // random bytes
	Flood   Fault = "flood"   // nonsense without an end; SNMP: hundreds of strange answers to each request
	Drop    Fault = "drop"    // goes away in the middle
	Endless Fault = "endless" // a walk, an output, a body that never ends
	Bomb    Fault = "bomb"    // HTTP: a small gzip of 64 GiB
)

// Faults lists what a service can do wrong.
func Faults(service Service) []Fault {
	all := []Fault{Refuse, Hang, Drip, Garble, Flood, Drop, Endless}
	if service == HTTP {
		all = append(all, Bomb)
	}
	return all
}

func (f Fault) check(service Service) error {
	if !slices.Contains(Services(), service) {
		return fmt.Errorf("there is no service %q; the services are %s", service, list(Services()))
	}
	if f == "" || slices.Contains(Faults(service), f) {
		return nil
	}
	return fmt.Errorf("%s cannot do %q; it can do %s", service, f, list(Faults(service)))
}

func list[T ~string](all []T) string {
	words := make([]string, len(all))
	for i, word := range all {
		words[i] = string(word)
	}
	return strings.Join(words, ", ")
}

// ParseFaults reads SERVICE=FAULT into faults. The service "all" is every one
// that knows the fault.
func ParseFaults(text string, faults map[Service]Fault) error {
	name, fault, ok := strings.Cut(text, "=")
	if !ok {
		return fmt.Errorf("%q is no fault; write SERVICE=FAULT, as in snmp=hang", text)
	}
	if name != "all" {
		if err := Fault(fault).check(Service(name)); err != nil {
			return err
		}
		faults[Service(name)] = Fault(fault)
		return nil
	}
	if !slices.Contains(Faults(HTTP), Fault(fault)) {
		return fmt.Errorf("there is no fault %q; the faults are %s", fault, list(Faults(HTTP)))
	}
	for _, service := range Services() {
		if slices.Contains(Faults(service), Fault(fault)) {
			faults[service] = Fault(fault)
		}
	}
	return nil
}

// Pace and size of the faults.
const (
	dripPause      = 100 * time.Millisecond
	dripAnswer     = 3 * time.Second // of SNMP
	floodPackets   = 300             // for one request
	dropAfter      = 100             // bytes of Telnet and HTTP
	dropAfterSSH   = 2500            // in the session, behind the key exchange
	dropPackets    = 3               // answers of SNMP to each peer
	maxLate        = 1000            // answers of SNMP under way
	maxPeers       = 10000           // of SNMP that are remembered
	maxConnections = 64
)

// serveStream serves each connection, with the faults that are the same for
// all protocols over TCP.
func (d *device) serveStream(ctx context.Context, service Service, l net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	free := make(chan struct{}, maxConnections)
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		select {
		case free <- struct{}{}:
		default:
			_ = conn.Close()
			continue
		}
		d.log.Info("connection", "service", string(service), "peer", conn.RemoteAddr().String())
		wg.Go(func() {
			defer func() { <-free }()
			defer conn.Close()
			release := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer release()
			d.serveConn(ctx, service, conn)
		})
	}
}

func (d *device) serveConn(ctx context.Context, service Service, conn net.Conn) {
	limit := dropAfter
	if service == SSH {
		limit = dropAfterSSH
	}
	switch d.faults[service] {
	case Hang:
		_, _ = io.Copy(io.Discard, conn)
		return
	case Garble:
		_, _ = io.CopyN(conn, rand.Reader, 1<<20)
		return
	case Flood:
		pour(conn, []byte(strings.Repeat("no end of this line ", 400)))
		return
	case Drip:
		conn = &dripping{Conn: conn, ctx: ctx}
	case Drop:
		conn = &dropping{Conn: conn, left: limit}
	default: // the service itself knows the others
	}
	switch service {
	case Telnet:
		d.serveTelnet(conn)
	case SSH:
		d.serveSSH(conn)
	default:
		d.serveHTTP(ctx, conn)
	}
}

// pour writes block until the peer has had enough.
func pour(w io.Writer, block []byte) {
	for {
		if _, err := w.Write(block); err != nil {
			return
		}
	}
}

// dripping writes a byte at a time.
type dripping struct {
	net.Conn

	ctx context.Context //nolint:containedctx // of the connection
}

func (c *dripping) Write(p []byte) (int, error) {
	for i := range p {
		if err := pause(c.ctx, dripPause); err != nil {
			return i, err
		}
		if _, err := c.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// dropping closes the connection when so many bytes have been written.
type dropping struct {
	net.Conn

	left int
}

func (c *dropping) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p[:min(len(p), c.left)])
	c.left -= n
	if err == nil && c.left == 0 {
		_ = c.Conn.Close()
		return n, net.ErrClosed
	}
	return n, err
}
