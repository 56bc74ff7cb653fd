package web

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"usm-satellite/jobs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ask(t *testing.T, params map[string]any, credentials string) (data, jobs.Output, *jobs.Fault) {
	t.Helper()
	network := &jobs.Network{Policy: &jobs.Policy{Targets: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}}
	text, err := json.Marshal(params)
	if err != nil {
		t.Fatal(err)
	}
	job, fault := jobs.Decode([]byte(`{"schema":1,"job_id":"a","action":"http.request","params":` + string(text) + `,"credentials":[` + credentials + `]}`))
	if fault != nil {
		t.Fatal(fault)
	}
	action, fault := Actions(Options{Network: network}).Judge(job)
	if fault != nil {
		return data{}, jobs.Output{}, fault
	}
	ctx, cancel := context.WithTimeout(t.Context(), job.Timeout)
	defer cancel()
	out, err := action.Driver.Run(ctx, job)
	if err != nil {
		fault = jobs.FaultOf(ctx, err)
	}
	found, _ := out.Data.(data)
	return found, out, fault
}

func hexMD5(s string) string {
	sum := md5.Sum([]byte(s))
	return hex.EncodeToString(sum[:])
}

func TestLogins(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/basic", func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "admin" || password != "pa55" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	mux.HandleFunc("/bearer", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer t0ken" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	mux.HandleFunc("/digest", func(w http.ResponseWriter, r *http.Request) {
		f := make(map[string]string)
		for _, m := range fieldPattern.FindAllStringSubmatch(r.Header.Get("Authorization"), -1) {
			f[m[1]] = m[2] + m[3]
		}
		want := hexMD5(strings.Join([]string{hexMD5("admin:sw:pa55"), "n1", f["nc"], f["cnonce"], "auth", hexMD5("GET:/digest?a=1")}, ":"))
		if f["response"] != want {
			w.Header().Set("WWW-Authenticate", `Digest realm="sw", nonce="n1", qop="auth,auth-int"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	const wrong, user, token = `{"http":{"username":"admin","password":"wr0ng"}}`, `{"http":{"username":"admin","password":"pa55"}}`, `{"http":{"bearer":"t0ken"}}`
	for path, right := range map[string]string{"/basic": user, "/bearer": token, "/digest?a=1": user} {
		if found, _, fault := ask(t, map[string]any{"url": server.URL + path}, wrong+","+right); fault != nil || found.StatusCode != http.StatusOK {
			t.Errorf("%s: got %d, %v", path, found.StatusCode, fault)
		}
		if _, _, fault := ask(t, map[string]any{"url": server.URL + path}, wrong); fault == nil || fault.Code != jobs.CodeAuthFailed {
			t.Errorf("%s with a wrong password: got %v", path, fault)
		}
	}
}

func TestBounds(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/header", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Long", strings.Repeat("a", 128<<10))
	})
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://127.0.0.2:9/", http.StatusFound)
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	if _, _, fault := ask(t, map[string]any{"url": server.URL + "/header"}, ""); fault == nil {
		t.Error("a header of 128 KiB was taken")
	}
	if found, _, fault := ask(t, map[string]any{"url": server.URL + "/away"}, ""); fault != nil || found.StatusCode != http.StatusFound {
		t.Errorf("a redirect was followed: %d, %v", found.StatusCode, fault)
	}
	if _, _, fault := ask(t, map[string]any{"url": server.URL + "/away", "follow_redirects": 1}, ""); fault == nil || fault.Code != jobs.CodePolicyDenied {
		t.Errorf("a redirect passed the policy: %v", fault)
	}
}

// A write that a device breaks off may have been done.
func TestBrokenWriteIsPastConnect(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer server.Close()
	_, _, fault := ask(t, map[string]any{"url": server.URL, "method": "POST", "body": "reboot"}, "")
	if fault == nil || fault.Stage != jobs.StageExecute || fault.Code != jobs.CodeProtocolError {
		t.Errorf("got %+v", fault)
	}
}

func TestOwnCA(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) }))
	defer server.Close()
	if _, _, fault := ask(t, map[string]any{"url": server.URL}, ""); fault == nil || !strings.Contains(fault.Message, "tls_ca") || fault.Stage != jobs.StageConnect {
		t.Errorf("an unknown authority: got %+v", fault)
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if found, _, fault := ask(t, map[string]any{"url": server.URL, "tls_ca": string(ca)}, ""); fault != nil || *found.Body != "ok" {
		t.Errorf("got %v", fault)
	}
}
