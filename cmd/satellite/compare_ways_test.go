//go:build compare

package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"usm-satellite/broker"
	"usm-satellite/tunnel/impair"
)

// far compares at a round trip of 50 ms, with as many jobs in hand as make
// a rate that the machine can bear: the tunnel's datagrams and the plain connection's bytes are delayed
// alike.
func (b *bench) far() []string {
	const oneWay, inHand, n = 25 * time.Millisecond, "200", 5000
	path, err := impair.Listen(1, loopback(b.hubPort))
	b.must(err)
	b.t.Cleanup(func() { _ = path.Close() })
	path.Set(impair.Rules{Delay: oneWay})
	relayUDPInside(b.t, b.ns, "127.0.0.1:51820", path.Addr())
	line, err := impair.ListenTCP(b.t.Context(), 1, loopback(b.node.Port))
	b.must(err)
	b.t.Cleanup(func() { _ = line.Close() })
	line.Set(impair.LineRules{Delay: oneWay})
	relayInside(b.t, b.ns, loopback(b.node.Port), line.Addr())
	core := b.core(broker.CoreOptions{})
	var through, plain []float64
	for range b.rounds {
		b.fill(core, "usm_poller-sat-7", "300 B", n)
		through = append(through, b.measure(n, nil, append(b.behindHub(0, "127.0.0.1:51820"), "USM_CONCURRENCY", inHand)).rate)
		b.fill(core, "usm_poller-sat-7", "300 B", n)
		plain = append(plain, b.measure(n, nil, []string{"USM_CONCURRENCY", inHand}).rate)
		b.t.Logf("50 ms: %.0f through the tunnel, %.0f by plain AMQP", through[len(through)-1], plain[len(plain)-1])
	}
	return higher("300 B jobs at 50 ms RTT, jobs/s with "+inHand+" in hand, beside plain AMQP", through, plain, 0.95)
}

// coldStarts compares the time from the start of the process to the answer to
// a job that waits.
func (b *bench) coldStarts() []string {
	core := b.core(broker.CoreOptions{AnswerQueue: "erp.core"})
	var through, direct []float64
	for i := range 2 * b.rounds {
		for _, w := range []way{b.tunnel, b.amqps} {
			id := fmt.Sprintf("cold-%d-%s", i, w.name)
			b.must(core.Submit(b.t.Context(), broker.CoreMessage{
				Queue: "usm_poller-sat-7", ID: id, ReplyTo: "erp.core",
				Body: job(id, "tcp.connect", target(b.device)),
			}))
			b.must(core.Settled(b.t.Context()))
			began := time.Now()
			p := b.launch(b.t.TempDir(), w.settings...)
			for {
				if _, mine := b.collect(core, 1)[id]; mine { // else it is left of an earlier measurement
					break
				}
			}
			took := float64(time.Since(began).Microseconds()) / 1000
			p.stop(b.t)
			if w.name == b.tunnel.name {
				through = append(through, took)
			} else {
				direct = append(direct, took)
			}
		}
	}
	more := median(through) - median(direct)
	r := row("cold start to the first answer, ms, beside direct AMQPS", through, direct, "≤ + 10 ms", met(more <= 10))
	r[3] += fmt.Sprintf(", %+.1f ms", more)
	return r
}

// slots compares five processes of one satellite, each with a key slot, with
// five satellites.
func (b *bench) slots() []string {
	const n = 20000
	endpoint := b.near + ":" + strconv.Itoa(b.hubPort)
	var files []string
	for i := range 5 {
		file := filepath.Join(b.t.TempDir(), "wg.conf")
		b.must(os.WriteFile(file, []byte(b.quick(i, endpoint)), 0o600))
		files = append(files, file)
	}
	core := b.core(broker.CoreOptions{})
	var together, apart []float64
	for range b.rounds {
		var replicas, satellites [][]string
		state := b.t.TempDir()
		for i := range 5 {
			replicas = append(replicas, []string{
				"USM_STATE_DIR", state, "USM_CONCURRENCY", "200",
				"USM_WG_CONFIG_FILE", strings.Join(files, ","), "USM_WG_BROKER", "10.77.0.1:5672",
			})
			satellites = append(satellites, append(b.behindHub(i, endpoint), "USM_CONCURRENCY", "200", "USM_POLLER_SATELLITE_ID", strconv.Itoa(100+i)))
		}
		b.fill(core, "usm_poller-sat-7", "300 B", n)
		together = append(together, b.measure(n, nil, replicas...).rate)
		for i := range 5 {
			b.fill(core, fmt.Sprintf("usm_poller-sat-%d", 100+i), "300 B", n/5)
		}
		apart = append(apart, b.measure(n, nil, satellites...).rate)
		b.t.Logf("five: %.0f with key slots, %.0f as satellites of their own", together[len(together)-1], apart[len(apart)-1])
	}
	return higher("300 B jobs, jobs/s of 5 key slots, beside 5 satellites", together, apart, 0.9)
}

// relayUDPInside takes datagrams of one client in a namespace to an address of
// this one and back.
func relayUDPInside(t *testing.T, ns, listen, to string) {
	t.Helper()
	var front net.PacketConn
	within(t, ns, func() (err error) {
		front, err = net.ListenPacket("udp", listen)
		return err
	})
	back, err := net.Dial("udp", to)
	if err != nil {
		t.Fatal(err)
	}
	var client net.Addr
	var mu sync.Mutex
	var all sync.WaitGroup
	t.Cleanup(func() { _ = front.Close(); _ = back.Close(); all.Wait() })
	all.Go(func() {
		for buf := make([]byte, 1<<16); ; {
			n, from, err := front.ReadFrom(buf)
			if err != nil {
				return
			}
			mu.Lock()
			client = from
			mu.Unlock()
			_, _ = back.Write(buf[:n])
		}
	})
	all.Go(func() {
		for buf := make([]byte, 1<<16); ; {
			n, err := back.Read(buf)
			if err != nil {
				return
			}
			mu.Lock()
			to := client
			mu.Unlock()
			_, _ = front.WriteTo(buf[:n], to)
		}
	})
}
