package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
)

// What the LLDP device and its neighbour say.
const (
	LLDPDescr     = "aggregation switch of the lab"
	LLDPPort      = "uplink" // of the device
	LLDPNeighbour = "access switch of the lab"
	LLDPPeerPort  = "trunk" // of the neighbour
	LLDPPeerMAC   = "02:00:00:00:00:51"
	LLDPPeerIPv4  = "192.0.2.34"
	LLDPPeerIPv6  = "2001:db8:34::2"
)

// LLDP is a device with one neighbour: lldpd in each of two network namespaces,
// with a cable between them. What the device's lldpd hears, its snmpd tells on
// loopback.
type LLDP struct {
	*SNMPD

	daemons []*process
	spaces  []string
	dir     string
}

// StartLLDP needs root, and lldpd.
func StartLLDP(ctx context.Context, dir string) (*LLDP, error) {
	l := &LLDP{}
	if err := l.start(ctx, dir); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

func (l *LLDP) start(ctx context.Context, dir string) error {
	lldpd, err := find("lldpd", "lldpd", "/usr/sbin/lldpd")
	if err != nil {
		return err
	}
	if err := l.cable(ctx); err != nil {
		return err
	}
	agentX := filepath.Join(dir, "agentx")
	if l.SNMPD, err = startSNMPD(ctx, dir, "master agentx\nagentXSocket "+agentX+"\n", []string{"127.0.0.1"}); err != nil {
		return err
	}
	// lldpd becomes a user of its own, who must find these.
	if l.dir, err = os.MkdirTemp("/run", "lldp-lab-"); err != nil {
		return err
	}
	if err := os.Chmod(l.dir, 0o755); err != nil {
		return err
	}
	conf := filepath.Join(l.dir, "conf")
	if err := os.WriteFile(conf, []byte("configure lldp tx-interval 1\n"), 0o644); err != nil {
		return err
	}
	for i, more := range [][]string{{"-S", LLDPDescr, "-x", "-X", agentX}, {"-S", LLDPNeighbour}} {
		name := "lldpd" + strconv.Itoa(i)
		args := append([]string{"netns", "exec", l.spaces[i], lldpd, "-d", "-O", conf, "-u", filepath.Join(l.dir, name)}, more...)
		daemon, err := start(filepath.Join(dir, name+".log"), nil, "/sbin/ip", args...)
		if err != nil {
			return err
		}
		l.daemons = append(l.daemons, daemon)
	}
	return l.daemons[0].wait(ctx, "lldpd", func() error { return l.heard(ctx) })
}

// spaces tells the namespaces of one process apart.
//
//nolint:gochecknoglobals // a counter
var spaces atomic.Int32

// cable makes the namespaces and what is between them.
func (l *LLDP) cable(ctx context.Context) error {
	id := fmt.Sprintf("lldp%d.%d", os.Getpid(), spaces.Add(1))
	l.spaces = []string{id + "a", id + "b"}
	commands := strings.NewReplacer("AA", l.spaces[0], "BB", l.spaces[1], "NEAR", LLDPPort, "FAR", LLDPPeerPort,
		"MAC", LLDPPeerMAC, "IPV4", LLDPPeerIPv4, "IPV6", LLDPPeerIPv6).Replace(`netns add AA
		netns add BB
		-n AA link add NEAR type veth peer name FAR netns BB
		-n BB link set FAR address MAC
		-n BB addr add IPV4/28 dev FAR
		-n BB addr add IPV6/64 dev FAR nodad
		-n AA link set NEAR up
		-n BB link set FAR up`)
	for line := range strings.Lines(commands) {
		if out, err := exec.CommandContext(ctx, "/sbin/ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s (network namespaces need root)", strings.TrimSpace(line), err, out)
		}
	}
	return nil
}

var errNoNeighbour = errors.New("no neighbour was heard")

// heard says whether snmpd tells of the neighbour with all of its addresses.
func (l *LLDP) heard(ctx context.Context) error {
	agent := net.JoinHostPort("127.0.0.1", strconv.Itoa(l.Port))
	const remote = "1.0.8802.1.1.2.1.4"
	out, err := exec.CommandContext(ctx, "snmpbulkwalk", "-v2c", "-c", Community, "-m", "", "-On", agent, remote).Output()
	if err != nil {
		return fmt.Errorf("snmpbulkwalk (apt-get install snmp): %w", err)
	}
	for _, part := range []string{LLDPNeighbour, "1.4." + LLDPPeerIPv4 + " ", ".16.32.1.13.184.0.52."} {
		if !strings.Contains(string(out), part) {
			return errNoNeighbour
		}
	}
	return nil
}

// Kill ends the agent at once.
func (l *LLDP) Kill() { l.SNMPD.Kill() }

// Close ends everything.
func (l *LLDP) Close() error {
	for _, daemon := range l.daemons {
		daemon.stop()
	}
	if l.SNMPD != nil {
		_ = l.SNMPD.Close()
	}
	failed := os.RemoveAll(l.dir)
	for _, space := range l.spaces {
		if _, err := os.Stat("/run/netns/" + space); err != nil {
			continue
		}
		// The test that asked may have ended: its context would not do.
		if out, err := exec.Command("/sbin/ip", "netns", "del", space).CombinedOutput(); err != nil {
			failed = fmt.Errorf("ip netns del %s: %w: %s", space, err, out)
		}
	}
	return failed
}
