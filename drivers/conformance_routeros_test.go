package drivers

import (
	"bufio"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"

	"usm-satellite/deploy/lab"
)

func routerosRows() []conformer {
	return []conformer{{
		action: "routeros.call", params: `{"sentences":[["/ip/address/print"],["/interface/getall"]]}`,
		huge:  `{"sentences":[["/log/print"]]}`,
		start: startFunc{"routeros peer", startRouterOS}, network: "tcp",
		login: login(lab.ConsolePassword), wrong: login(canary), dropFrom: 40,
	}}
}

// startRouterOS starts a peer that speaks the RouterOS API as its manual
// describes it. It is no RouterOS: it shares the reader's view of the manual.
func startRouterOS(t *testing.T) int {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	all.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[conn] = true
			mu.Unlock()
			all.Go(func() {
				serveRouterOS(conn)
				conn.Close()
				mu.Lock()
				delete(open, conn)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for conn := range open {
			conn.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return ln.Addr().(*net.TCPAddr).Port
}

func serveRouterOS(conn net.Conn) {
	in, out := bufio.NewReader(conn), bufio.NewWriter(conn)
	loggedIn := false
	for {
		words, err := peerSentence(in)
		if err != nil {
			return
		}
		switch command := words[0]; {
		case command == "/login":
			loggedIn = strings.Join(words[1:], " ") == "=name="+lab.ConsoleUser+" =password="+lab.ConsolePassword
			if !loggedIn {
				peerSay(out, "!trap", "=message=invalid user name or password (6)")
			}
			peerSay(out, "!done")
		case !loggedIn:
			peerSay(out, "!fatal", "not logged in")
			out.Flush()
			return
		case command == "/ip/address/print":
			peerSay(out, "!re", "=.id=*1", "=address=192.0.2.1/24", "=interface=ether1")
			peerSay(out, "!re", "=.id=*2", "=address=198.51.100.1/24", "=interface=ether2")
			peerSay(out, "!done")
		case command == "/log/print":
			for i := range 20000 {
				peerSay(out, "!re", "=.id=*"+strconv.Itoa(i), "=message="+strings.Repeat("x", 200))
			}
			peerSay(out, "!done")
		default:
			peerSay(out, "!empty")
			peerSay(out, "!done")
		}
		if out.Flush() != nil {
			return
		}
	}
}

func peerSentence(in *bufio.Reader) ([]string, error) {
	var words []string
	for {
		n, err := in.ReadByte()
		if err != nil {
			return nil, err
		}
		length := int(n)
		if n >= 0x80 { // the tests send no word above 16383 bytes
			low, err := in.ReadByte()
			if err != nil {
				return nil, err
			}
			length = (length-0x80)*256 + int(low)
		}
		if length == 0 && len(words) > 0 {
			return words, nil
		}
		word := make([]byte, length)
		if _, err := io.ReadFull(in, word); err != nil {
			return nil, err
		}
		if length > 0 {
			words = append(words, string(word))
		}
	}
}

func peerSay(out *bufio.Writer, words ...string) {
	for _, word := range words {
		if len(word) >= 0x80 {
			out.WriteByte(byte(0x80 + len(word)/256))
		}
		out.WriteByte(byte(len(word) % 256))
		out.WriteString(word)
	}
	out.WriteByte(0)
}
