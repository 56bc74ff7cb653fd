package web

import (
	"bytes"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/net/http/httpguts"

	"usm-satellite/jobs"
)

// FuzzDigest demands that no challenge makes an answer that another reader
// takes apart differently, or one with the password in it.
func FuzzDigest(f *testing.F) {
	f.Add(`Digest realm="r", nonce="n", qop="auth,auth-int", algorithm=SHA-256, opaque="o"`)
	f.Add(`digest realm=r,nonce="",algorithm="md5"`)
	f.Add(`Digest realm="a\"b", nonce="c\\"`)
	const password = "canary-5ecret"
	quoted := regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)
	f.Fuzz(func(t *testing.T, challenge string) {
		if !httpguts.ValidHeaderFieldValue(challenge) {
			return // net/http lets none of these through
		}
		login := jobs.HTTPCredential{Username: `u"\`, Password: jobs.NewSecret(password)}
		answer, ok := digest([]string{challenge}, "GET", "/", login)
		if !ok {
			return
		}
		if !strings.Contains(challenge, password) && strings.Contains(answer, password) {
			t.Fatalf("%q has the password in it", answer)
		}
		if !httpguts.ValidHeaderFieldValue(answer) {
			t.Fatalf("%q is no value of a header", answer)
		}
		if rest := quoted.ReplaceAllString(answer, ""); strings.ContainsAny(rest, `"\`) {
			t.Fatalf("%q has a quote that does not end", answer)
		}
	})
}

// FuzzBody demands that no body breaks the unpacking or passes its limit.
func FuzzBody(f *testing.F) {
	for _, p := range packers() {
		f.Add(packed(p, make([]byte, 1<<20)), p.coding)
		f.Add(packed(p, []byte("the page of sw1")), p.coding)
	}
	f.Add([]byte("plain"), "")
	f.Fuzz(func(t *testing.T, body []byte, coding string) {
		const limit = 1000
		res := &http.Response{Header: http.Header{"Content-Encoding": {coding}}, Body: io.NopCloser(bytes.NewReader(body)), Request: &http.Request{Method: http.MethodGet}}
		got, err := unpack(t.Context(), res, limit)
		if len(got) > limit || coding == "" && (err != nil || !bytes.HasPrefix(body, got)) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	})
}
