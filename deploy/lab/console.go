package lab

import (
	"context"
	_ "embed" // the switch
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// The login of everything in this file with a command line.
const (
	ConsoleUser     = "admin"
	ConsolePassword = "login-secret-1"
	EnablePassword  = "enable-secret-2"
)

// Console is a running server of command lines (or of NETCONF).
type Console struct {
	*process

	Port int
	Dir  string
}

// Close ends the server.
func (c *Console) Close() error {
	c.stop()
	return nil
}

// tries bounds how often a server is started anew because somebody else has
// taken its port in the meantime.
const tries = 10

// listen starts a server on a free port and waits until it listens.
func listen(ctx context.Context, dir, name string, command func(port int) []string) (*Console, error) {
	var failure error
	for range tries {
		c := &Console{Port: Port(), Dir: dir}
		argv := command(c.Port)
		var err error
		if c.process, err = start(filepath.Join(dir, name+".log"), nil, argv[0], argv[1:]...); err != nil {
			return nil, err
		}
		failure = c.wait(ctx, name, func() error {
			return listensOn(c.cmd.Process.Pid, c.Port)
		})
		if failure == nil {
			return c, nil
		}
		c.kill()
		if ctx.Err() != nil {
			break
		}
	}
	return nil, failure
}

var errNotListening = errors.New("it does not listen on its port")

// listensOn says whether the socket that listens on port is one of pid: that
// somebody answers there could be another server that has taken the port.
func listensOn(pid, port int) error {
	inode := listeningInode(port)
	fds, err := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/fd/*")
	if err != nil || inode == "" {
		return errNotListening
	}
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && target == "socket:["+inode+"]" {
			return nil
		}
	}
	return errNotListening
}

//go:embed switch.sh
var switchScript string

// WriteSwitch puts a switch with a Cisco-like command line into dir and returns
// the path of its program. It keeps its state there: hostname, lines, saved.
func WriteSwitch(dir string) (string, error) {
	path := filepath.Join(dir, "switch.sh")
	return path, errors.Join(
		os.WriteFile(path, []byte(switchScript), 0o700),
		os.WriteFile(filepath.Join(dir, "hostname"), []byte("core-sw1"), 0o600),
		os.WriteFile(filepath.Join(dir, "password"), []byte(ConsolePassword), 0o600),
		os.WriteFile(filepath.Join(dir, "enable"), []byte(EnablePassword), 0o600),
	)
}

// StartTelnetSwitch starts the switch under busybox's Telnet server.
func StartTelnetSwitch(ctx context.Context, dir string) (*Console, error) {
	busybox, err := find("busybox", "busybox-static", "/usr/bin/busybox", "/bin/busybox")
	if err != nil {
		return nil, err
	}
	script, err := WriteSwitch(dir)
	if err != nil {
		return nil, err
	}
	return listen(ctx, dir, "telnetd", func(port int) []string {
		return []string{busybox, "telnetd", "-F", "-b", "127.0.0.1:" + strconv.Itoa(port), "-l", script}
	})
}

// StartInetTelnet starts GNU inetutils' Telnet server with the switch.
func StartInetTelnet(ctx context.Context, dir string) (*Console, error) {
	telnetd, err := find("telnetd", "inetutils-telnetd", "/usr/sbin/telnetd")
	if err != nil {
		return nil, err
	}
	socat, err := find("socat", "socat", "/usr/bin/socat")
	if err != nil {
		return nil, err
	}
	script, err := WriteSwitch(dir)
	if err != nil {
		return nil, err
	}
	return listen(ctx, dir, "inet-telnetd", func(port int) []string {
		return []string{
			socat, fmt.Sprintf("TCP-LISTEN:%d,bind=127.0.0.1,fork,reuseaddr", port),
			"EXEC:" + telnetd + " --debug --exec-login=" + script + ",fdin=0,fdout=1",
		}
	})
}

// StartFRR starts FRR's bgpd, which touches nothing of the machine: its Telnet
// line is the real command line of a router. It asks for ConsolePassword only.
// vtysh reaches it with --vty_socket dir.
func StartFRR(ctx context.Context, dir string) (*Console, error) {
	bgpd, err := find("bgpd", "frr", "/usr/lib/frr/bgpd")
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "bgpd.conf")
	text := "hostname core-rt1\npassword " + ConsolePassword + "\nenable password " + EnablePassword + "\nline vty\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	return listen(ctx, dir, "bgpd", func(port int) []string {
		return []string{
			bgpd, "-f", config, "-i", filepath.Join(dir, "bgpd.pid"), "-z", filepath.Join(dir, "zserv.api"), "--vty_socket", dir,
			"-A", "127.0.0.1", "-P", strconv.Itoa(port), "-p", "0", "-n", "-S", "-u", "root", "-g", "root",
		}
	})
}

// SSHDConfig says what kind of OpenSSH server to start.
type SSHDConfig struct {
	Keys   []string // kinds of host keys; default: ed25519. They are dir/host_<kind>
	Force  string   // the program in place of the user's shell
	Legacy bool     // nothing newer than group1, ssh-rsa, 3DES and SHA-1; the key must be rsa
	Extra  string   // more lines of sshd_config
}

// StartSSHD starts an OpenSSH server where ConsoleUser can log in, with its
// password or a key of dir/authorized. It needs root.
func StartSSHD(ctx context.Context, dir string, c SSHDConfig) (*Console, error) {
	sshd, err := find("sshd", "openssh-server", "/usr/sbin/sshd")
	if err != nil {
		return nil, err
	}
	text := "ListenAddress 127.0.0.1\nStrictModes no\nUsePAM no\nPermitRootLogin yes\nPidFile none\nMaxStartups 100\nUseDNS no\nPrintMotd no\n" +
		"AuthorizedKeysFile " + filepath.Join(dir, "authorized") + "\n" + c.Extra + "\n"
	if c.Legacy {
		c.Keys = []string{"rsa"}
		text += "KexAlgorithms diffie-hellman-group1-sha1\nHostKeyAlgorithms ssh-rsa\nCiphers 3des-cbc\nMACs hmac-sha1\n"
	}
	if len(c.Keys) == 0 {
		c.Keys = []string{"ed25519"}
	}
	lines := []string{text}
	for _, kind := range c.Keys {
		key := filepath.Join(dir, "host_"+kind)
		if err := Keygen(ctx, key, "-t", kind, "-N", ""); err != nil {
			return nil, err
		}
		lines = append(lines, "HostKey "+key)
	}
	if c.Force != "" {
		lines = append(lines, "ForceCommand "+c.Force)
	}
	config := filepath.Join(dir, "sshd_config")
	if err := os.WriteFile(config, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		return nil, err
	}
	wrap, err := private(ctx, dir)
	if err != nil {
		return nil, err
	}
	return listen(ctx, dir, "sshd", func(port int) []string {
		return append(wrap, sshd, "-D", "-e", "-f", config, "-p", strconv.Itoa(port))
	})
}

// StartDropbear starts the SSH server of many small devices. It needs root.
func StartDropbear(ctx context.Context, dir string) (*Console, error) {
	dropbear, err := find("dropbear", "dropbear-bin", "/usr/sbin/dropbear")
	if err != nil {
		return nil, err
	}
	key := filepath.Join(dir, "host")
	if err := run(ctx, "dropbearkey", "-t", "ecdsa", "-f", key); err != nil {
		return nil, err
	}
	wrap, err := private(ctx, dir)
	if err != nil {
		return nil, err
	}
	return listen(ctx, dir, "dropbear", func(port int) []string {
		return append(wrap, dropbear, "-F", "-E", "-r", key, "-p", "127.0.0.1:"+strconv.Itoa(port), "-P", filepath.Join(dir, "pid"))
	})
}

// StartNETCONF starts yuma123's NETCONF server behind an OpenSSH server.
func StartNETCONF(ctx context.Context, dir string) (*Netconfd, error) {
	netconfd, err := find("netconfd", "netconfd", "/usr/sbin/netconfd")
	if err != nil {
		return nil, err
	}
	startup, socket := filepath.Join(dir, "startup.xml"), filepath.Join(dir, "nc.sock")
	if err := os.WriteFile(startup, []byte(`<config xmlns="urn:ietf:params:xml:ns:netconf:base:1.0"/>`+"\n"), 0o600); err != nil {
		return nil, err
	}
	n := &Netconfd{}
	n.server, err = start(filepath.Join(dir, "netconfd.log"), []string{"HOME=" + dir}, netconfd, "--superuser="+ConsoleUser,
		"--target=candidate", "--module=helloworld", "--startup="+startup, "--ncxserver-sockname="+socket)
	if err != nil {
		return nil, err
	}
	err = n.server.wait(ctx, "netconfd", func() error {
		_, err := os.Stat(socket)
		return err
	})
	if err != nil {
		n.server.kill()
		return nil, err
	}
	// The server takes sessions from port 830 only, and the subsystem tells it
	// the port that SSH has told.
	subsystem := filepath.Join(dir, "subsystem")
	script := "#!/bin/sh\nSSH_CONNECTION='127.0.0.1 1 127.0.0.1 830'\nexec /usr/sbin/netconf-subsystem --ncxserver-sockname=830@" + socket + "\n"
	err = os.WriteFile(subsystem, []byte(script), 0o700)
	if err == nil {
		n.Console, err = StartSSHD(ctx, dir, SSHDConfig{Extra: "Subsystem netconf " + subsystem + "\n"})
	}
	if err != nil {
		n.server.kill()
		return nil, err
	}
	return n, nil
}

// Netconfd is a NETCONF server with the SSH server before it.
type Netconfd struct {
	*Console

	server *process
}

// Close ends both.
func (n *Netconfd) Close() error {
	err := n.Console.Close()
	n.server.stop()
	return err
}

// Keygen makes a key with ssh-keygen where there is none yet.
func Keygen(ctx context.Context, path string, args ...string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	return run(ctx, "ssh-keygen", append([]string{"-q", "-f", path}, args...)...)
}

func run(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}

// private returns the beginning of a command that runs in a mount namespace of
// its own where ConsoleUser exists: the machine's own users stay as they are.
func private(ctx context.Context, dir string) ([]string, error) {
	hash, err := exec.CommandContext(ctx, "openssl", "passwd", "-6", ConsolePassword).Output()
	if err != nil {
		return nil, fmt.Errorf("openssl passwd: %w", err)
	}
	users, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return nil, err
	}
	shadow := "root:*:19000::::::\nsshd:!:19000::::::\n" + ConsoleUser + ":" + strings.TrimSpace(string(hash)) + ":19000::::::\n"
	err = errors.Join(
		os.WriteFile(filepath.Join(dir, "passwd"), append(users, ConsoleUser+":x:0:0::/tmp:/bin/sh\n"...), 0o644),
		os.WriteFile(filepath.Join(dir, "shadow"), []byte(shadow), 0o600),
	)
	if err != nil {
		return nil, err
	}
	script := `mkdir -p /run/sshd; mount --bind "$0/passwd" /etc/passwd && mount --bind "$0/shadow" /etc/shadow && exec "$@"`
	return []string{"unshare", "--mount", "--propagation", "private", "sh", "-c", script, dir}, nil
}
