package chaos

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/gosnmp/gosnmp"

	"usm-satellite/deploy/chaos/ledger"
)

// The objects of the device. Below writeRoot a Set leaves a nonce; below
// readRoot each instance has a nonce to read.
const (
	writeRoot = "1.3.6.1.4.1.55555.1"
	readRoot  = "1.3.6.1.4.1.55555.2"
	sysUpTime = "1.3.6.1.2.1.1.3.0" // RFC 3418; asked for to see whether anybody is there
)

// device is an SNMPv2c agent that writes down each request before it answers.
type device struct {
	conn      net.PacketConn
	forbidden bool
	silent    bool // it never replies
	calm      bool // it replies at once, always
	log       *ledger.Log
	faults    *ledger.Log
	failed    func(error)
	handlers  sync.WaitGroup

	mu  sync.Mutex
	rng *rand.Rand // guarded by mu
}

func (d *device) serve() {
	buffer := make([]byte, 64<<10)
	for {
		n, from, err := d.conn.ReadFrom(buffer)
		if err != nil {
			d.handlers.Wait()
			return // closed
		}
		request := append([]byte(nil), buffer[:n]...)
		d.handlers.Go(func() {
			if err := d.answer(request, from); err != nil {
				d.failed(fmt.Errorf("the device: %w", err))
			}
		})
	}
}

func (d *device) answer(request []byte, from net.Addr) error {
	packet, err := (&gosnmp.GoSNMP{}).SnmpDecodePacket(request)
	if err != nil || len(packet.Variables) != 1 {
		return fmt.Errorf("a request of %d bytes that no job makes (%w)", len(request), err)
	}
	pdu := &packet.Variables[0]
	entry := ledger.Device{At: time.Now(), Write: packet.PDUType == gosnmp.SetRequest, Forbidden: d.forbidden}
	reading := strings.TrimPrefix(pdu.Name, ".")
	switch {
	case entry.Write:
		value, _ := pdu.Value.([]byte)
		entry.Nonce = string(value)
	case reading == sysUpTime:
		entry.Probe = true
	default:
		entry.Nonce = "r" + strings.TrimPrefix(reading, readRoot+".")
	}
	if err := d.log.Add(entry); err != nil {
		return err
	}
	delay, lost := d.fate()
	if lost {
		return d.faults.Add(ledger.Fault{At: entry.At, Until: entry.At.Add(jobTimeout), Kind: "reply lost"})
	}
	time.Sleep(delay)
	pdu.Type, pdu.Value = gosnmp.OctetString, entry.Nonce
	if entry.Probe {
		pdu.Type, pdu.Value = gosnmp.TimeTicks, uint32(100)
	}
	packet.PDUType = gosnmp.GetResponse
	reply, err := packet.MarshalMsg()
	if err != nil {
		return err
	}
	_, _ = d.conn.WriteTo(reply, from) // who asked may be dead
	return nil
}

// fate decides how long the device thinks, and whether its reply gets lost.
func (d *device) fate() (delay time.Duration, lost bool) {
	if d.silent || d.calm {
		return 0, d.silent
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delay = time.Duration(d.rng.IntN(40)) * time.Millisecond
	if d.rng.IntN(10) == 0 {
		delay *= 40 // so that faults meet jobs which are being run
	}
	return delay, d.rng.IntN(200) == 0
}
