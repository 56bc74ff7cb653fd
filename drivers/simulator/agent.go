package simulator

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/gosnmp/gosnmp"
)

// Bytes of a message: maxMessage fits into an Ethernet frame, and a request of
// more than maxRequest is cut, and not understood.
const (
	maxMessage = 1472
	maxRequest = 8 << 10
)

// object is one value. Its name is also there in numbers, to be ordered by.
type object struct {
	id  []uint32
	pdu gosnmp.SnmpPDU
}

// agent answers requests of versions 1 and 2c (RFC 1157, 3416).
type agent struct {
	community, writeCommunity string
	endless                   bool

	mu      sync.Mutex
	objects []object // guarded by mu; those of the profile until one is set
	own     bool     // guarded by mu
}

func newAgent(p *Profile) *agent {
	return &agent{community: p.community, writeCommunity: p.writeCommunity, objects: p.objects}
}

func (d *device) serveSNMP(ctx context.Context, conn net.PacketConn) error {
	d.agent.endless = d.faults[SNMP] == Endless
	a := &answerer{PacketConn: conn, fault: d.faults[SNMP], answered: make(map[string]int), late: make(chan struct{}, maxLate)}
	defer a.wg.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	buffer := make([]byte, maxRequest)
	for {
		n, from, err := conn.ReadFrom(buffer)
		switch {
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return err
		case err != nil: // an ICMP message, of a peer that has gone
			continue
		}
		if packet := d.agent.respond(buffer[:n]); packet != nil {
			a.send(ctx, packet, from)
		}
	}
}

// answerer sends answers, with what is wrong with them.
type answerer struct {
	net.PacketConn

	fault    Fault
	answered map[string]int // by peer, where the answers of each are counted
	late     chan struct{}  // has one for each answer that waits
	wg       sync.WaitGroup
}

func (a *answerer) send(ctx context.Context, packet []byte, to net.Addr) {
	switch a.fault {
	case Hang:
		return
	case Garble:
		_, _ = rand.Read(packet)
	case Flood:
		for range floodPackets {
			strange := slices.Clone(packet)
			_, _ = rand.Read(strange[len(strange)/4:])
			_, _ = a.WriteTo(strange, to)
		}
		return
	case Drip:
		a.sendLate(ctx, packet, to)
		return
	case Drop:
		if len(a.answered) >= maxPeers {
			clear(a.answered)
		}
		if a.answered[to.String()]++; a.answered[to.String()] > dropPackets {
			return
		}
	default: // a good answer
	}
	_, _ = a.WriteTo(packet, to)
}

// sendLate sends an answer when its time has come. What is too much for the
// device gets none.
func (a *answerer) sendLate(ctx context.Context, packet []byte, to net.Addr) {
	select {
	case a.late <- struct{}{}:
	default:
		return
	}
	a.wg.Go(func() {
		defer func() { <-a.late }()
		if pause(ctx, dripAnswer) == nil {
			_, _ = a.WriteTo(packet, to)
		}
	})
}

// respond returns nil where an agent says nothing: to what it cannot read,
// and to a wrong community.
func (a *agent) respond(request []byte) (answer []byte) {
	defer func() { // the library's decoder is not made for servers
		if recover() != nil {
			answer = nil
		}
	}()
	p, err := (&gosnmp.GoSNMP{Version: gosnmp.Version2c}).SnmpDecodePacket(request)
	if err != nil || p.Version == gosnmp.Version3 {
		return nil
	}
	if p.Community != a.community && (a.writeCommunity == "" || p.Community != a.writeCommunity) {
		return nil
	}
	a.mu.Lock()
	vars, code, at := a.do(p)
	a.mu.Unlock()
	bulk := p.PDUType == gosnmp.GetBulkRequest
	reply := &gosnmp.SnmpPacket{
		Version: p.Version, Community: p.Community, PDUType: gosnmp.GetResponse, RequestID: p.RequestID,
		Variables: vars, Error: code, ErrorIndex: at,
	}
	for {
		answer, err = reply.MarshalMsg()
		if err != nil {
			return nil
		}
		if len(answer) <= maxMessage {
			return answer
		}
		if !bulk || len(reply.Variables) <= 1 {
			reply.Variables, reply.Error, reply.ErrorIndex = nil, gosnmp.TooBig, 0
			bulk = true
			continue
		}
		reply.Variables = reply.Variables[:len(reply.Variables)*3/4]
	}
}

func (a *agent) do(p *gosnmp.SnmpPacket) (vars []gosnmp.SnmpPDU, code gosnmp.SNMPError, at uint8) {
	switch p.PDUType {
	case gosnmp.GetBulkRequest:
		return a.bulk(p), gosnmp.NoError, 0
	case gosnmp.SetRequest:
		return a.set(p)
	case gosnmp.GetRequest, gosnmp.GetNextRequest:
	default:
		return p.Variables, gosnmp.GenErr, 0
	}
	v1 := p.Version == gosnmp.Version1
	for i, v := range p.Variables {
		var found gosnmp.SnmpPDU
		if p.PDUType == gosnmp.GetRequest {
			found = a.get(v.Name, v1)
		} else {
			found = a.next(v.Name, v1)
		}
		if v1 && exception(found.Type) {
			return p.Variables, gosnmp.NoSuchName, position(i)
		}
		vars = append(vars, found)
	}
	return vars, gosnmp.NoError, 0
}

func exception(t gosnmp.Asn1BER) bool {
	return t == gosnmp.NoSuchObject || t == gosnmp.NoSuchInstance || t == gosnmp.EndOfMibView
}

// position counts from 1; the library's field ends at 255.
func position(i int) uint8 { return uint8(min(i+1, 255)) } //nolint:gosec // it is at most 255

func (a *agent) find(name string) (at int, found bool, id []uint32) {
	id, err := parseOID(name)
	if err != nil {
		return len(a.objects), false, nil
	}
	at, found = slices.BinarySearchFunc(a.objects, id, func(o object, id []uint32) int { return slices.Compare(o.id, id) })
	return at, found, id
}

func (a *agent) get(name string, v1 bool) gosnmp.SnmpPDU {
	at, found, _ := a.find(name)
	if !found || (v1 && a.objects[at].pdu.Type == gosnmp.Counter64) {
		return gosnmp.SnmpPDU{Name: name, Type: gosnmp.NoSuchInstance}
	}
	return a.objects[at].pdu
}

func (a *agent) next(name string, v1 bool) gosnmp.SnmpPDU {
	at, found, id := a.find(name)
	if a.endless && id != nil {
		return endlessNext(id)
	}
	if found {
		at++
	}
	for ; at < len(a.objects); at++ {
		if !v1 || a.objects[at].pdu.Type != gosnmp.Counter64 { // version 1 has no such type (RFC 2576, 4.1.2.3)
			return a.objects[at].pdu
		}
	}
	return gosnmp.SnmpPDU{Name: name, Type: gosnmp.EndOfMibView}
}

// endlessNext makes a successor of any name: under it once, and then one more
// each time.
func endlessNext(id []uint32) gosnmp.SnmpPDU {
	const marker = 424242
	id = slices.Clone(id)
	if n := len(id); n > 2 && id[n-2] == marker && id[n-1] < 1<<31 {
		id[n-1]++
	} else {
		id = append(id, marker, 1)
	}
	return gosnmp.SnmpPDU{Name: formatOID(id), Type: gosnmp.Integer, Value: int(time.Now().Unix() % 1000)}
}

func (a *agent) bulk(p *gosnmp.SnmpPacket) (vars []gosnmp.SnmpPDU) {
	single := min(int(p.NonRepeaters), len(p.Variables))
	for _, v := range p.Variables[:single] {
		vars = append(vars, a.next(v.Name, false))
	}
	row := p.Variables[single:]
	for range min(p.MaxRepetitions, 500) {
		ended := true
		following := make([]gosnmp.SnmpPDU, 0, len(row))
		for _, v := range row {
			found := a.next(v.Name, false)
			ended = ended && found.Type == gosnmp.EndOfMibView
			following = append(following, found)
		}
		vars, row = append(vars, following...), following
		if ended || len(vars) > 500 {
			break
		}
	}
	return vars
}

// set changes all or nothing.
func (a *agent) set(p *gosnmp.SnmpPacket) ([]gosnmp.SnmpPDU, gosnmp.SNMPError, uint8) {
	v1 := p.Version == gosnmp.Version1
	refuse := func(code, old gosnmp.SNMPError, i int) ([]gosnmp.SnmpPDU, gosnmp.SNMPError, uint8) {
		if v1 {
			code = old
		}
		return p.Variables, code, position(i)
	}
	if p.Community != a.writeCommunity {
		return refuse(gosnmp.NoAccess, gosnmp.NoSuchName, 0)
	}
	places := make([]int, len(p.Variables))
	for i, v := range p.Variables {
		at, found, _ := a.find(v.Name)
		if !found {
			return refuse(gosnmp.NotWritable, gosnmp.NoSuchName, i)
		}
		if a.objects[at].pdu.Type != v.Type {
			return refuse(gosnmp.WrongType, gosnmp.BadValue, i)
		}
		places[i] = at
	}
	if !a.own { // many devices share a profile
		a.objects, a.own = slices.Clone(a.objects), true
	}
	for i, v := range p.Variables {
		a.objects[places[i]].pdu.Value = v.Value
	}
	return p.Variables, gosnmp.NoError, 0
}
