package snmp

import (
	"bytes"
	"net"
	"time"
)

// wire watches what goes over the socket of a session: the library tells
// neither how long and how large answers were, nor why a device refused a
// request of version 3.
type wire struct {
	net.Conn

	began   time.Time // the first try of the request under way
	rtt     time.Duration
	answers int // packets that came for it
	largest int // of them, in bytes
	report  usmReport
	sent    []byte // the last packet
	got     []byte // the last packet
}

// begin forgets the last request.
func (w *wire) begin() {
	w.began, w.rtt, w.answers, w.largest, w.report = time.Time{}, 0, 0, 0, 0
}

func (w *wire) Write(p []byte) (int, error) {
	if w.began.IsZero() {
		w.began = time.Now()
	}
	w.sent = append(w.sent[:0], p...)
	return w.Conn.Write(p)
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if err == nil {
		w.got = append(w.got[:0], p[:n]...)
		w.answers++
		w.largest = max(w.largest, n)
		w.rtt = time.Since(w.began)
		if report := reportIn(p[:n]); report != 0 {
			w.report = report
		}
	}
	return n, err
}

// usmReport is the counter of usmStats (RFC 3414, section 5) by which a device
// says why it refuses a request of version 3; 0: it did not.
type usmReport byte

// The counters, as the last but one number of their object identifiers.
const (
	unsupportedSecLevels usmReport = iota + 1
	notInTimeWindows
	unknownUserNames
	unknownEngineIDs
	wrongDigests
	decryptionErrors
)

// reportIn finds the counter in a packet. Reports are not encrypted, and
// mostly not signed: the library drops them. What is found here only words a
// failure, it is never taken for an answer.
func reportIn(packet []byte) usmReport {
	const reportPDU = 0xa8
	usmStats := []byte{0x06, 0x0a, 0x2b, 0x06, 0x01, 0x06, 0x03, 0x0f, 0x01, 0x01} // 1.3.6.1.6.3.15.1.1
	at := bytes.Index(packet, usmStats)
	if at < 0 || at+len(usmStats) >= len(packet) || bytes.IndexByte(packet[:at], reportPDU) < 0 {
		return 0
	}
	if r := usmReport(packet[at+len(usmStats)]); r <= decryptionErrors {
		return r
	}
	return 0
}
