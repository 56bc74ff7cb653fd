package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"usm-satellite/deploy/lab"
	"usm-satellite/jobs"
)

// equipment is what stands at the demo's site, all of it real software.
type equipment struct {
	snmp   *lab.SNMPD
	web    string // ports
	router string // "": not installed
	ssh    string

	routerPassword jobs.Secret
}

func (d *demonstration) startEquipment(ctx context.Context) (err error) {
	begin := time.Now()
	if err := d.folder("snmpd"); err != nil {
		return err
	}
	if d.eq.snmp, err = lab.StartSNMPD(ctx, d.path("snmpd"), d.net.lan); err != nil {
		return err
	}
	d.onEnd(func() { _ = d.eq.snmp.Close() })
	if d.eq.web, err = d.startWeb(ctx); err != nil {
		return err
	}
	fmt.Fprintf(d.out, "  equipment   at %s: net-snmp on udp %d, a web server on tcp %s", d.net.lan, d.eq.snmp.Port, d.eq.web)
	for _, more := range []struct {
		program string
		can     bool
		start   func(context.Context, string) error
	}{
		{"/usr/lib/frr/bgpd", true, d.startRouter},
		{"/usr/sbin/sshd", realRoot(), d.startSSH}, // it changes to users that a user namespace lacks
	} {
		if _, err := os.Stat(more.program); err != nil || !more.can {
			fmt.Fprintf(d.out, ", no %s here", filepath.Base(more.program))
			continue
		}
		if err := more.start(ctx, more.program); err != nil {
			return err
		}
	}
	fmt.Fprintf(d.out, "  (%.1f s)\n", time.Since(begin).Seconds())
	return nil
}

// startWeb serves a page.
func (d *demonstration) startWeb(ctx context.Context) (port string, err error) {
	port = strconv.Itoa(lab.Port())
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(d.net.lan, port))
	if err != nil {
		return "", err
	}
	server := &http.Server{ReadHeaderTimeout: demoPatience, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "a page of the equipment")
	})}
	done := make(chan struct{})
	go func() { // ends with Close
		_ = server.Serve(listener)
		close(done)
	}()
	d.onEnd(func() {
		_ = server.Close()
		<-done
	})
	return port, nil
}

// startRouter starts FRR's bgpd, which touches nothing of the machine: its
// Telnet port is the command line of a real router.
func (d *demonstration) startRouter(ctx context.Context, bgpd string) error {
	if err := d.folder("router"); err != nil {
		return err
	}
	dir, password := d.path("router"), newPassword()
	d.eq.routerPassword = password
	config := fmt.Sprintf("hostname core-rt1\npassword %s\nenable password %s\nline vty\n", password.Reveal(), password.Reveal())
	if err := os.WriteFile(dir+"/bgpd.conf", []byte(config), 0o600); err != nil {
		return err
	}
	port := strconv.Itoa(lab.Port())
	cmd := exec.CommandContext(context.WithoutCancel(ctx), bgpd, "-f", dir+"/bgpd.conf", "-i", dir+"/pid", //nolint:gosec // files of ours
		"-z", dir+"/zserv.api", "--vty_socket", dir, "-A", d.net.lan, "-P", port, "-p", "0", "-n", "-S", "-u", "root", "-g", "root")
	if err := d.startListener(ctx, cmd, "FRR", port); err != nil {
		return err
	}
	d.eq.router = port
	fmt.Fprintf(d.out, ", a router (FRR) on tcp %s", port)
	return nil
}

// startSSH starts OpenSSH in a mount namespace, where there is a user "admin"
// for a key made on the spot: the machine's own users stay as they are.
func (d *demonstration) startSSH(ctx context.Context, sshd string) error {
	if err := d.folder("ssh"); err != nil {
		return err
	}
	dir := d.path("ssh")
	for _, name := range []string{"host", "login"} {
		out, err := exec.CommandContext(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", dir+"/"+name).CombinedOutput() //nolint:gosec // files of ours
		if err != nil {
			return fmt.Errorf("ssh-keygen: %w: %s", err, out)
		}
	}
	users, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return err
	}
	for name, content := range map[string]string{
		"passwd":      string(users) + "admin:x:0:0::/tmp:/bin/sh\n",
		"shadow":      "root:*:19000::::::\nsshd:!:19000::::::\nadmin:*:19000::::::\n",
		"sshd_config": "ListenAddress " + d.net.lan + "\nHostKey " + dir + "/host\nAuthorizedKeysFile " + dir + "/login.pub\nStrictModes no\nUsePAM no\nPermitRootLogin yes\nPidFile none\nUseDNS no\n",
	} {
		if err := os.WriteFile(dir+"/"+name, []byte(content), 0o600); err != nil {
			return err
		}
	}
	port := strconv.Itoa(lab.Port())
	script := `mkdir -p /run/sshd && mount --bind "$0/passwd" /etc/passwd && mount --bind "$0/shadow" /etc/shadow && exec "$@"`
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "unshare", "--mount", "--propagation", "private", "sh", "-c", script, dir, //nolint:gosec // files of ours
		sshd, "-D", "-e", "-f", dir+"/sshd_config", "-p", port)
	if err := d.startListener(ctx, cmd, "sshd", port); err != nil {
		return err
	}
	d.eq.ssh = port
	fmt.Fprintf(d.out, ", a server (OpenSSH) on tcp %s", port)
	return nil
}

// startListener starts a program and waits until it listens.
func (d *demonstration) startListener(ctx context.Context, cmd *exec.Cmd, name, port string) error {
	process, err := startChild(cmd, d.path(name+".log"))
	if err != nil {
		return err
	}
	d.onEnd(func() { process.stop(demoStopGrace) })
	err = d.until(ctx, process, name, func() bool {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", net.JoinHostPort(d.net.lan, port))
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	if err != nil {
		return errors.Join(err, errors.New(process.tail()))
	}
	return nil
}

// credentials writes the files that the demo's jobs log in with.
func (d *demonstration) credentials() error {
	files := map[string]any{
		"v3.json": map[string]any{"snmp": map[string]any{
			"version": "3", "username": "u_s512", "auth_protocol": "SHA-512", "auth_password": lab.AuthPassword,
			"priv_protocol": "AES", "priv_password": lab.PrivPassword,
		}},
		"router.json": map[string]any{"login": map[string]any{
			"username": "admin", "password": d.eq.routerPassword.Reveal(), "enable_password": d.eq.routerPassword.Reveal(),
		}},
	}
	if d.eq.ssh != "" {
		key, err := os.ReadFile(d.path("ssh/login"))
		if err != nil {
			return err
		}
		files["server.json"] = map[string]any{"login": map[string]any{"username": "admin", "private_key": string(key)}}
	}
	for name, content := range files {
		if err := os.WriteFile(d.path(name), mustJSON(content), 0o600); err != nil {
			return err
		}
	}
	return nil
}
