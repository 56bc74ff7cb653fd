package lab

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// The administrator of every broker of the lab.
const (
	RabbitUser     = "lab"
	RabbitPassword = "lab-password"
)

// Rabbit is a RabbitMQ node of its own on loopback.
type Rabbit struct {
	Port, TLSPort, ManagementPort int
	CAFile                        string

	dir        string
	inside     string // dir as the node sees it
	root       string // of the node's file system; "": this machine's
	epmd, dist int
	server     string // path of rabbitmq-server
	node       *process
}

// RabbitConfig says how a node is started.
type RabbitConfig struct {
	Dir     string // for its files; must outlive the node
	Address string // to listen on for AMQP; default 127.0.0.1
	Extra   string // further lines of rabbitmq.conf
}

// StartRabbit starts Debian's RabbitMQ with TLS and the management plugin, and
// waits until it speaks AMQP.
func StartRabbit(ctx context.Context, c RabbitConfig) (*Rabbit, error) {
	server, err := find("rabbitmq-server", "rabbitmq-server", "/usr/lib/rabbitmq/bin/rabbitmq-server")
	if err != nil {
		return nil, err
	}
	return startRabbit(ctx, c, &Rabbit{inside: c.Dir, server: server})
}

func startRabbit(ctx context.Context, c RabbitConfig, r *Rabbit) (*Rabbit, error) {
	r.dir = c.Dir
	r.Port, r.TLSPort, r.ManagementPort, r.epmd, r.dist = Port(), Port(), Port(), Port(), Port()
	if err := r.prepare(c); err != nil {
		return nil, err
	}
	return r, r.Start(ctx)
}

func (r *Rabbit) prepare(c RabbitConfig) error {
	for _, sub := range []string{"data", "log", "tls"} {
		if err := os.MkdirAll(filepath.Join(r.dir, sub), 0o700); err != nil {
			return err
		}
	}
	tlsDir := filepath.Join(r.dir, "tls")
	if err := makeCertificates(tlsDir); err != nil {
		return err
	}
	r.CAFile = filepath.Join(tlsDir, "ca.pem")
	cookie := make([]byte, 20)
	_, _ = rand.Read(cookie)
	files := map[string]string{
		".erlang.cookie": hex.EncodeToString(cookie), "enabled_plugins": "[rabbitmq_management].\n",
		"rabbitmq.conf": r.config(c), "definitions.json": definitions,
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o400); err != nil {
			return err
		}
	}
	return nil
}

const definitions = `{
 "users": [{"name": "` + RabbitUser + `", "password": "` + RabbitPassword + `", "tags": "administrator"}],
 "vhosts": [{"name": "/"}],
 "permissions": [{"user": "` + RabbitUser + `", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}]
}
`

func (r *Rabbit) config(c RabbitConfig) string {
	address := c.Address
	if address == "" {
		address = "127.0.0.1"
	}
	return fmt.Sprintf(`listeners.tcp.1 = %[5]s:%[2]d
listeners.ssl.1 = %[5]s:%[3]d
ssl_options.cacertfile = %[1]s/tls/ca.pem
ssl_options.certfile = %[1]s/tls/server.pem
ssl_options.keyfile = %[1]s/tls/server.key
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = false
ssl_options.versions.1 = tlsv1.3
ssl_options.versions.2 = tlsv1.2
management.tcp.ip = 127.0.0.1
management.tcp.port = %[4]d
management.load_definitions = %[1]s/definitions.json
loopback_users = none
vm_memory_high_watermark.absolute = 1GB
disk_free_limit.absolute = 50MB
%[6]s
`, r.inside, r.Port, r.TLSPort, r.ManagementPort, address, c.Extra)
}

func (r *Rabbit) env() []string {
	return []string{
		"HOME=" + r.inside, "ERL_EPMD_PORT=" + strconv.Itoa(r.epmd), "ERL_EPMD_ADDRESS=127.0.0.1",
		"RABBITMQ_NODENAME=" + r.nodename(), "RABBITMQ_DIST_PORT=" + strconv.Itoa(r.dist),
		"RABBITMQ_MNESIA_BASE=" + r.inside + "/data", "RABBITMQ_LOG_BASE=" + r.inside + "/log", "RABBITMQ_LOGS=-",
		"RABBITMQ_CONFIG_FILE=" + r.inside + "/rabbitmq.conf", "RABBITMQ_ENABLED_PLUGINS_FILE=" + r.inside + "/enabled_plugins",
		"RABBITMQ_CONF_ENV_FILE=/dev/null", "LANG=C.UTF-8",
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none",
	}
}

func (r *Rabbit) nodename() string { return "lab" + strconv.Itoa(r.Port) + "@localhost" }

// Start starts the node again after Kill, on the same ports, with its data.
func (r *Rabbit) Start(ctx context.Context) (err error) {
	program, args := r.command()
	if r.node, err = start(filepath.Join(r.dir, "node.log"), r.env(), program, args...); err != nil {
		return err
	}
	err = r.node.wait(ctx, "RabbitMQ", func() error { return greetAMQP(ctx, net.JoinHostPort("127.0.0.1", strconv.Itoa(r.Port))) })
	if err == nil {
		err = r.node.wait(ctx, "RabbitMQ's management", func() error {
			return r.API(ctx, http.MethodGet, "/whoami", nil, nil)
		})
	}
	if err != nil {
		r.Kill()
	}
	return err
}

// Kill ends the node as a crash does.
func (r *Rabbit) Kill() { r.node.kill() }

// Close ends the node and the port mapper that it started.
func (r *Rabbit) Close() error {
	if r.node != nil {
		r.Kill()
	}
	if pid := pidOnPort(r.epmd); pid > 0 {
		if p, err := os.FindProcess(pid); err == nil {
			_ = p.Kill()
		}
	}
	return nil
}

// DSN returns the administrator's AMQP URI for a virtual host.
func (r *Rabbit) DSN(vhost string) string {
	return r.UserDSN(RabbitUser, RabbitPassword, vhost)
}

// UserDSN returns the AMQP URI of a user.
func (r *Rabbit) UserDSN(user, password, vhost string) string {
	return fmt.Sprintf("amqp://%s:%s@127.0.0.1:%d/%s", url.PathEscape(user), url.PathEscape(password), r.Port, url.PathEscape(vhost))
}

// TLSDSN returns the administrator's AMQPS URI for a virtual host. The
// certificate is for localhost and 127.0.0.1; CAFile has who signed it.
func (r *Rabbit) TLSDSN(vhost string) string {
	return fmt.Sprintf("amqps://%s:%s@localhost:%d/%s", RabbitUser, RabbitPassword, r.TLSPort, url.PathEscape(vhost))
}

// ManagementURL returns where the management API is.
func (r *Rabbit) ManagementURL() string { return fmt.Sprintf("http://127.0.0.1:%d", r.ManagementPort) }

// NewVhost makes a virtual host, for one test to be alone in.
func (r *Rabbit) NewVhost(ctx context.Context, name string) error {
	if err := r.API(ctx, http.MethodPut, "/vhosts/"+url.PathEscape(name), struct{}{}, nil); err != nil {
		return err
	}
	all := map[string]string{"configure": ".*", "write": ".*", "read": ".*"}
	return r.API(ctx, http.MethodPut, "/permissions/"+url.PathEscape(name)+"/"+RabbitUser, all, nil)
}

// DeclareQueue makes a durable queue of a type ("quorum" or "classic").
func (r *Rabbit) DeclareQueue(ctx context.Context, vhost, name, kind string) error {
	body := map[string]any{"durable": true, "arguments": map[string]any{"x-queue-type": kind}}
	return r.API(ctx, http.MethodPut, "/queues/"+url.PathEscape(vhost)+"/"+url.PathEscape(name), body, nil)
}

// DeleteQueue removes a queue.
func (r *Rabbit) DeleteQueue(ctx context.Context, vhost, name string) error {
	return r.API(ctx, http.MethodDelete, "/queues/"+url.PathEscape(vhost)+"/"+url.PathEscape(name), nil, nil)
}

// DeclareExchange makes a durable topic exchange.
func (r *Rabbit) DeclareExchange(ctx context.Context, vhost, name string) error {
	body := map[string]any{"durable": true, "type": "topic"}
	return r.API(ctx, http.MethodPut, "/exchanges/"+url.PathEscape(vhost)+"/"+url.PathEscape(name), body, nil)
}

var errAPI = errors.New("the management API refused")

// API calls the management API; in and out are JSON, either may be nil.
func (r *Rabbit) API(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader = http.NoBody
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, r.ManagementURL()+"/api"+path, body)
	if err != nil {
		return err
	}
	request.SetBasicAuth(RabbitUser, RabbitPassword)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode >= 300 {
		return fmt.Errorf("%w: %s %s: %s %s", errAPI, method, path, response.Status, text)
	}
	if out == nil || len(text) == 0 {
		return nil
	}
	return json.Unmarshal(text, out)
}

// greetAMQP begins an AMQP handshake: an open port alone is too early.
func greetAMQP(ctx context.Context, address string) error {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("AMQP\x00\x00\x09\x01")); err != nil {
		return err
	}
	answer := make([]byte, 1)
	_, err = io.ReadFull(conn, answer)
	return err
}

// pidOnPort finds the process that listens on a TCP port of loopback; 0: none.
func pidOnPort(port int) int {
	inode := listeningInode(port)
	if inode == "" {
		return 0
	}
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && target == "socket:["+inode+"]" {
			pid, _ := strconv.Atoi(strings.Split(fd, "/")[2])
			return pid
		}
	}
	return 0
}

// listeningInode looks into this thread's namespace. /proc/net would be the main
// thread's, which a test may have sent elsewhere.
func listeningInode(port int) string {
	for _, table := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
		text, _ := os.ReadFile(table)
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) > 9 && f[3] == "0A" && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				return f[9]
			}
		}
	}
	return ""
}

// Ctl runs rabbitmqctl against the node; each call takes seconds.
func (r *Rabbit) Ctl(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(filepath.Dir(r.server), "rabbitmqctl"), append([]string{"-q", "-n", r.nodename()}, args...)...)
	cmd.Env = append(os.Environ(), r.env()...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("rabbitmqctl %s: %w: %s", args[0], err, out)
	}
	return nil
}
