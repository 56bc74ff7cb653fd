package routeros

import (
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"net"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"usm-satellite/jobs"
)

// A device with a certificate is met by its authority only.
func TestTLS(t *testing.T) {
	certified := httptest.NewTLSServer(nil) // for its certificate, which is its own authority
	certificate, der := certified.TLS.Certificates[0], certified.Certificate().Raw
	certified.Close()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate}})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			converse(conn, map[string][][]string{"/a/print": {{"!done"}}})
			conn.Close()
		}
	}()
	defer func() {
		ln.Close()
		<-done
	}()
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	for _, c := range []struct {
		name   string
		params map[string]any
		want   string // of the fault; "": none
	}{
		{"its authority", map[string]any{"tls": true, "tls_ca": ca}, ""},
		{"its authority and name", map[string]any{"tls": true, "tls_ca": ca, "tls_server_name": "example.com"}, ""},
		{"another name", map[string]any{"tls": true, "tls_ca": ca, "tls_server_name": "router.test"}, "params.tls_server_name"},
		{"no authority", map[string]any{"tls": true}, "params.tls_ca"},
	} {
		c.params["sentences"] = [][]string{{"/a/print"}}
		params, err := json.Marshal(c.params)
		if err != nil {
			t.Fatal(err)
		}
		job := &jobs.Job{
			Action: "routeros.call", Params: params, Timeout: time.Minute,
			Target:      jobs.Target{Address: "127.0.0.1", Port: ln.Addr().(*net.TCPAddr).Port},
			Credentials: []jobs.Credential{{Login: &jobs.LoginCredential{Username: "admin"}}},
		}
		network := &jobs.Network{Policy: &jobs.Policy{Targets: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}}
		_, err = Actions(Options{Network: network})["routeros.call"].Driver.Run(t.Context(), job)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: got %v", c.name, err)
		}
	}
}
