package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// What every snmpd of the lab knows.
const (
	Community      = "public"      // reads
	WriteCommunity = "private"     // reads and writes
	AuthPassword   = "authpass123" // of every user with authentication
	PrivPassword   = "privpass123" // of every user with privacy
)

// User is a user of SNMP version 3; "" stands for none.
type User struct{ Name, Auth, Priv string }

// Users returns the users that every snmpd of the lab knows, with protocols
// named as the wire contract names them.
func Users() []User {
	return []User{
		{"u_none", "", ""},
		{"u_md5", "MD5", ""},
		{"u_shades", "SHA", "DES"},
		{"u_shaaes", "SHA", "AES"},
		{"u_s224", "SHA-224", "AES"},
		{"u_s256", "SHA-256", "AES"},
		{"u_s384", "SHA-384", "AES"},
		{"u_s512", "SHA-512", "AES"},
		{"u_aes192", "SHA-256", "AES-192"},
		{"u_aes256", "SHA-256", "AES-256"},
	}
}

// SNMPD is a running net-snmp agent.
type SNMPD struct {
	*process

	Port int
	dir  string
}

// StartSNMPD starts an agent on a free port of these addresses (default
// 127.0.0.1), with its files in dir. sysLocation and sysContact can be written
// with WriteCommunity.
func StartSNMPD(ctx context.Context, dir string, addresses ...string) (*SNMPD, error) {
	if len(addresses) == 0 {
		addresses = []string{"127.0.0.1"}
	}
	return startSNMPD(ctx, dir, "", addresses)
}

// startSNMPD adds lines of its configuration.
func startSNMPD(ctx context.Context, dir, lines string, addresses []string) (*SNMPD, error) {
	path, err := find("snmpd", "snmpd", "/usr/sbin/snmpd")
	if err != nil {
		return nil, err
	}
	s := &SNMPD{Port: Port(), dir: dir}
	if err := os.MkdirAll(filepath.Join(dir, "var"), 0o700); err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "snmpd.conf")
	if err := os.WriteFile(conf, []byte(s.config(addresses)+lines), 0o600); err != nil {
		return nil, err
	}
	env := []string{"SNMP_PERSISTENT_DIR=" + filepath.Join(dir, "var"), "MIBS=", "SNMPCONFPATH=" + dir}
	if s.process, err = start(filepath.Join(dir, "snmpd.log"), env, path, "-f", "-C", "-c", conf, "-Lo", "-I", "-smux", "-p", filepath.Join(dir, "pid")); err != nil {
		return nil, err
	}
	err = s.wait(ctx, "snmpd", func() error {
		return ask(ctx, net.JoinHostPort(addresses[0], strconv.Itoa(s.Port)), Community, 500*time.Millisecond)
	})
	if err != nil {
		s.kill()
		return nil, err
	}
	return s, nil
}

func (s *SNMPD) config(addresses []string) string {
	var b strings.Builder
	var listen []string
	for _, a := range addresses {
		proto := "udp:"
		if strings.Contains(a, ":") {
			proto, a = "udp6:", "["+a+"]"
		}
		listen = append(listen, proto+a+":"+strconv.Itoa(s.Port))
	}
	_, _ = fmt.Fprintf(&b, "agentaddress %s\n", strings.Join(listen, ","))
	_, _ = fmt.Fprintf(&b, "rocommunity %s default\nrwcommunity %s default\nrocommunity6 %s default\nrwcommunity6 %s default\n",
		Community, WriteCommunity, Community, WriteCommunity)
	for _, u := range Users() {
		level := "noauth"
		line := "createUser " + u.Name
		if u.Auth != "" {
			line += " " + u.Auth + " " + AuthPassword
			level = "auth"
		}
		if u.Priv != "" {
			line += " " + u.Priv + " " + PrivPassword
			level = "priv"
		}
		_, _ = fmt.Fprintf(&b, "%s\nrwuser %s %s\n", line, u.Name, level)
	}
	return b.String()
}

// Kill ends the agent at once.
func (s *SNMPD) Kill() { s.kill() }

// Close ends the agent.
func (s *SNMPD) Close() error {
	s.stop()
	return nil
}

// ask sends a GetRequest of version 1 for sysUpTime.0 and waits for any answer.
func ask(ctx context.Context, address, community string, limit time.Duration) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	request := append([]byte{0x30, byte(0x20 + len(community)), 0x02, 0x01, 0x00, 0x04, byte(len(community))}, community...)
	request = append(request, 0xa0, 0x19, 0x02, 0x01, 0x01, 0x02, 0x01, 0x00, 0x02, 0x01, 0x00,
		0x30, 0x0e, 0x30, 0x0c, 0x06, 0x08, 0x2b, 0x06, 0x01, 0x02, 0x01, 0x01, 0x03, 0x00, 0x05, 0x00)
	if _, err := conn.Write(request); err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1500))
	return err
}
