// Package simulator is a network device made of a text file: an SNMP agent
// (versions 1 and 2c), a command line by Telnet and SSH, and a web server, on
// one address, with faults on demand. It is for trying the satellite out and
// for tests, not for production; its logins and host keys are no secrets.
//
//	profile, err := simulator.Load("switch48")
//	err = profile.Run(ctx, simulator.Options{Address: "127.0.0.1", Ready: show})
//
// The format of profiles is described at Load.
package simulator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"strconv"
	"sync"
)

// Service is one of the things that a device offers.
type Service string

// The services.
const (
	SNMP   Service = "snmp"
	SSH    Service = "ssh"
	Telnet Service = "telnet"
	HTTP   Service = "http"
)

// Services lists them all, in the order in which they are shown.
func Services() []Service { return []Service{SNMP, SSH, Telnet, HTTP} }

// Options say where a device is found and how it misbehaves.
type Options struct {
	Address string                // IP address to listen on; "": 127.0.0.1
	Ports   map[Service]int       // 0 or missing: a free one
	Faults  map[Service]Fault     // on top of those of the profile
	Ready   func(map[Service]int) // is called once with the ports, before the first request is served; nil: nobody asks
	Logger  *slog.Logger          // nil: nothing is logged
}

// device is a profile that runs.
type device struct {
	*Profile

	faults map[Service]Fault
	log    *slog.Logger
	agent  *agent

	mu         sync.Mutex
	configured []string // lines typed in configuration mode
}

// Run serves the device until ctx ends, and then returns nil. What was set or
// configured is forgotten with it. An error says which port could not be had.
func (p *Profile) Run(ctx context.Context, o Options) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	d := &device{Profile: p, log: o.Logger, agent: newAgent(p), faults: make(map[Service]Fault)}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	maps.Copy(d.faults, p.faults)
	for service, fault := range o.Faults {
		if err := fault.check(service); err != nil {
			return err
		}
		d.faults[service] = fault
	}
	if o.Address == "" {
		o.Address = "127.0.0.1"
	}
	s, err := d.open(ctx, o)
	defer s.close()
	if err != nil {
		return err
	}
	if o.Ready != nil {
		o.Ready(s.ports)
	}
	return s.serve(ctx, d)
}

// Start runs the device beside the caller, and returns when it is there. stop
// ends it, and says what Run did; so does the end of ctx.
func (p *Profile) Start(ctx context.Context, o Options) (ports map[Service]int, stop func() error, err error) {
	ctx, cancel := context.WithCancel(ctx)
	there, ended := make(chan map[Service]int, 1), make(chan error, 1)
	o.Ready = func(ports map[Service]int) { there <- ports }
	go func() { ended <- p.Run(ctx, o) }()
	select {
	case ports = <-there:
	case err = <-ended:
		cancel()
		return nil, nil, err
	}
	return ports, func() error { cancel(); return <-ended }, nil
}

// sockets are what a device listens on. A service that refuses has a port and
// no socket.
type sockets struct {
	ports   map[Service]int
	packets net.PacketConn
	streams map[Service]net.Listener
}

func (d *device) open(ctx context.Context, o Options) (*sockets, error) {
	s := &sockets{ports: make(map[Service]int), streams: make(map[Service]net.Listener)}
	for _, service := range Services() {
		address := net.JoinHostPort(o.Address, strconv.Itoa(o.Ports[service]))
		var err error
		if service == SNMP {
			err = s.openPackets(ctx, address, d.faults[service])
		} else {
			err = s.openStream(ctx, service, address, d.faults[service])
		}
		if err != nil {
			return s, fmt.Errorf("cannot offer %s: %w; choose another address, or another port for %s", service, err, service)
		}
	}
	return s, nil
}

func (s *sockets) openPackets(ctx context.Context, address string, fault Fault) error {
	conn, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", address)
	if err != nil {
		return err
	}
	if udp, ok := conn.LocalAddr().(*net.UDPAddr); ok {
		s.ports[SNMP] = udp.Port
	}
	if fault == Refuse {
		return conn.Close()
	}
	s.packets = conn
	return nil
}

func (s *sockets) openStream(ctx context.Context, service Service, address string, fault Fault) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	if tcp, ok := l.Addr().(*net.TCPAddr); ok {
		s.ports[service] = tcp.Port
	}
	if fault == Refuse {
		return l.Close()
	}
	s.streams[service] = l
	return nil
}

func (s *sockets) close() {
	if s.packets != nil {
		_ = s.packets.Close()
	}
	for _, l := range s.streams {
		_ = l.Close()
	}
}

// serve returns when every goroutine has ended.
func (s *sockets) serve(ctx context.Context, d *device) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var (
		wg       sync.WaitGroup
		mu       sync.Mutex
		failures []error
	)
	start := func(service Service, run func() error) {
		wg.Go(func() {
			if err := run(); err != nil && ctx.Err() == nil {
				mu.Lock()
				failures = append(failures, fmt.Errorf("%s stopped: %w", service, err))
				mu.Unlock()
				stop()
			}
		})
	}
	if s.packets != nil {
		start(SNMP, func() error { return d.serveSNMP(ctx, s.packets) })
	}
	for service, l := range s.streams {
		start(service, func() error { return d.serveStream(ctx, service, l) })
	}
	<-ctx.Done()
	s.close()
	wg.Wait()
	return errors.Join(failures...)
}
