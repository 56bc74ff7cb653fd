package lab

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// SNMPSim is a running snmpsim: equipment of any kind, from data files.
type SNMPSim struct {
	*process

	Port int
}

// StartSNMPSim serves the .snmprec files of a folder by versions 1 and 2c: the
// name of a file is the community that reaches it. One of them must be called
// community, and have sysUpTime.0.
func StartSNMPSim(ctx context.Context, dir, data, community string) (*SNMPSim, error) {
	path, err := find("snmpsimd", "snmpsim", "/usr/bin/snmpsimd")
	if err != nil {
		return nil, err
	}
	s := &SNMPSim{Port: Port()}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port))
	args := []string{
		"--data-dir=" + data, "--cache-dir=" + filepath.Join(dir, "cache"), "--agent-udpv4-endpoint=" + address,
	}
	if os.Geteuid() == 0 { // it asks for a user to become
		args = append(args, "--process-user=root", "--process-group=root")
	}
	if s.process, err = start(filepath.Join(dir, "snmpsim.log"), nil, path, args...); err != nil {
		return nil, err
	}
	if err := s.wait(ctx, "snmpsim", func() error { return ask(ctx, address, community, 5*time.Second) }); err != nil {
		s.kill()
		return nil, err
	}
	return s, nil
}

// Close ends it.
func (s *SNMPSim) Close() error {
	s.stop()
	return nil
}
