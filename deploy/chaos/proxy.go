package chaos

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// tcpProxy is a line to the broker that can be cut, or go silent.
type tcpProxy struct {
	listener net.Listener
	target   string
	silent   sync.RWMutex // held for writing while nothing passes

	mu    sync.Mutex
	conns map[net.Conn]bool // guarded by mu
}

func (p *tcpProxy) serve() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		upstream, err := net.DialTimeout("tcp", p.target, 5*time.Second)
		if err != nil {
			_ = conn.Close()
			continue
		}
		p.mu.Lock()
		p.conns[conn], p.conns[upstream] = true, true
		p.mu.Unlock()
		go p.pump(conn, upstream) // both end with either connection
		go p.pump(upstream, conn)
	}
}

func (p *tcpProxy) pump(from, to net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if err == nil {
			p.silent.RLock()
			_, err = to.Write(buffer[:n])
			p.silent.RUnlock()
		}
		if err != nil {
			break
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range []net.Conn{from, to} {
		_ = conn.Close()
		delete(p.conns, conn)
	}
}

// cut ends every connection, as a router that forgot its table does.
func (p *tcpProxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		_ = conn.Close()
	}
}

// mute lets nothing pass for a while; nobody is told.
func (p *tcpProxy) mute(d time.Duration) {
	p.silent.Lock()
	defer p.silent.Unlock()
	time.Sleep(d)
}

// udpProxy is the line of the tunnel.
type udpProxy struct {
	conn   *net.UDPConn
	target *net.UDPAddr
	silent atomic.Bool

	mu    sync.Mutex
	flows map[string]*net.UDPConn // by client. Guarded by mu
	order []string                // of the flows, oldest first. Guarded by mu
}

// maxFlows is more than the clients that live at a time: those that were
// killed leave their flows behind.
const maxFlows = 64

func (p *udpProxy) serve() {
	buffer := make([]byte, 64<<10)
	for {
		n, from, err := p.conn.ReadFromUDP(buffer)
		if err != nil {
			p.close()
			return
		}
		if flow := p.flow(from); flow != nil && !p.silent.Load() {
			_, _ = flow.Write(buffer[:n]) // a hub that is dead refuses
		}
	}
}

func (p *udpProxy) flow(client *net.UDPAddr) *net.UDPConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if flow := p.flows[client.String()]; flow != nil {
		return flow
	}
	flow, err := net.DialUDP("udp", nil, p.target)
	if err != nil {
		return nil
	}
	p.flows[client.String()] = flow
	if p.order = append(p.order, client.String()); len(p.order) > maxFlows {
		_ = p.flows[p.order[0]].Close()
		delete(p.flows, p.order[0])
		p.order = p.order[1:]
	}
	go func() { // ends with the flow
		buffer := make([]byte, 64<<10)
		for {
			n, err := flow.Read(buffer)
			if isClosed(err) {
				return
			}
			if err == nil && !p.silent.Load() {
				_, _ = p.conn.WriteToUDP(buffer[:n], client)
			}
		}
	}()
	return flow
}

func (p *udpProxy) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, flow := range p.flows {
		_ = flow.Close()
	}
}

func (p *udpProxy) mute(d time.Duration) {
	p.silent.Store(true)
	defer p.silent.Store(false)
	time.Sleep(d)
}
