package drivers

import (
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"usm-satellite/deploy/lab"
)

// serve runs a real server until the test ends, and waits until its port is open.
func serve(t *testing.T, port int, name string, args ...string) int {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v: install what .ci/deps names", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			conn.Close()
			return port
		}
	}
	t.Fatalf("%s does not listen on %s", name, address)
	return 0
}

func startDNSMasq(t *testing.T) int {
	port := lab.Port()
	return serve(t, port, "/usr/sbin/dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file",
		"--user=root", "--bind-interfaces", "--listen-address=127.0.0.1", "--port="+strconv.Itoa(port),
		"--address=/sw1.example/192.0.2.1", "--txt-record=note.example,rack 4")
}

func startNginx(t *testing.T) int {
	port, dir := lab.Port(), t.TempDir()
	page := make([]byte, 300<<10)
	for i := range page {
		page[i] = 'a' + byte(i%26)
	}
	config := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log %[1]s/log; events {}
http { access_log off; client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
server { listen 127.0.0.1:%[2]d; root %[1]s;
location /private/ { auth_basic sw1; auth_basic_user_file %[1]s/users; }
location /packed/ { add_header Content-Encoding deflate; } } }`, dir, port)
	for _, name := range []string{"packed", "private"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{
		"conf": config, "big.txt": string(page), "index.html": "the page of sw1", "packed/zlib": unhex(t, packedZlib), "packed/raw": unhex(t, packedRaw),
		"private/page": "a page for some", "users": "admin:{PLAIN}" + lab.ConsolePassword + "\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return serve(t, port, "/usr/sbin/nginx", "-p", dir, "-c", filepath.Join(dir, "conf"), "-e", filepath.Join(dir, "log"))
}

// "the page of sw1, packed\n", four times over, as zlib 1.2.13 packs it: in its
// own format, and without that (windowBits -15).
const (
	packedZlib = "78da2bc9485528484c4f55c84f53282e37d4017292b35353b84aa8240e0011a21fb1"
	packedRaw  = "2bc9485528484c4f55c84f53282e37d4017292b35353b84aa8240e00"
)

func unhex(t *testing.T, digits string) string {
	t.Helper()
	raw, err := hex.DecodeString(digits)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// nginx has no deflate of its own: it sends files that were packed before.
func TestDeflateFromNginx(t *testing.T) {
	port := startNginx(t)
	registry, closeAll := All(Options{Network: loopback()})
	defer closeAll()
	for _, name := range []string{"zlib", "raw"} {
		data, fault := run(t, registry, fmt.Sprintf(`{"schema":1,"job_id":"a","action":"http.request","target":{"address":"127.0.0.1","port":%d},"params":{"scheme":"http","path":"/packed/%s"}}`, port, name))
		if fault != nil || data["status_code"] != 200.0 || data["body"] != strings.Repeat("the page of sw1, packed\n", 4) {
			t.Errorf("%s: got %v, %v", name, data, fault)
		}
	}
}

func networkRows() []conformer {
	account := func(password string) string {
		return `{"http":{"username":"admin","password":"` + password + `"}}`
	}
	return []conformer{
		{
			action: "dns.query", params: `{"name":"sw1.example","type":"A"}`, start: startFunc{"dnsmasq", startDNSMasq}, network: "udp",
			not: map[string]string{"huge answer": "an answer has 64 KiB at most (RFC 1035, 4.2.2)", wrongLogin: noCredential},
		},
		{
			action: "http.request", params: `{"scheme":"http","path":"/private/page"}`, huge: `{"scheme":"http","path":"/big.txt"}`,
			start: startFunc{"nginx", startNginx}, network: "tcp", dropFrom: 100, login: account(lab.ConsolePassword), wrong: account(canary), anonymous: true,
		},
	}
}
