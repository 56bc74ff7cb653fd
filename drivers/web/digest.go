package web

import (
	"crypto/md5" //nolint:gosec // the digest of most equipment (RFC 7616, 3.3)
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"regexp"
	"slices"
	"strings"

	"usm-satellite/jobs"
)

// A quoted string may hold quotes behind backslashes (RFC 9110, 5.6.4).
var (
	fieldPattern = regexp.MustCompile(`([A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s,"\\]+))`)
	quotedPair   = regexp.MustCompile(`\\(.)`)
)

// digest answers the first challenge that it knows how to answer (RFC 7616):
// MD5 or SHA-256, with qop auth or none.
func digest(challenges []string, method, uri string, login jobs.HTTPCredential) (string, bool) {
	for _, challenge := range challenges {
		scheme, rest, _ := strings.Cut(challenge, " ")
		if !strings.EqualFold(scheme, "Digest") {
			continue
		}
		f := make(map[string]string)
		for _, m := range fieldPattern.FindAllStringSubmatch(rest, -1) {
			f[strings.ToLower(m[1])] = m[2] + m[3]
		}
		var newHash func() hash.Hash
		switch strings.ToUpper(f["algorithm"]) {
		case "", "MD5":
			newHash = md5.New
		case "SHA-256":
			newHash = sha256.New
		default:
			continue
		}
		withQop := f["qop"] != ""
		if withQop && !slices.Contains(strings.FieldsFunc(f["qop"], func(r rune) bool { return r == ',' || r == ' ' }), "auth") {
			continue
		}
		return digestAnswer(f, withQop, newHash, method, uri, login), true
	}
	return "", false
}

func digestAnswer(f map[string]string, withQop bool, newHash func() hash.Hash, method, uri string, login jobs.HTTPCredential) string {
	plain := func(name string) string { return quotedPair.ReplaceAllString(f[name], "$1") }
	h := func(parts ...string) string {
		sum := newHash()
		sum.Write([]byte(strings.Join(parts, ":")))
		return hex.EncodeToString(sum.Sum(nil))
	}
	ha1, ha2 := h(login.Username, plain("realm"), login.Password.Reveal()), h(method, uri)
	cnonce := rand.Text()
	response, tail := h(ha1, plain("nonce"), ha2), ""
	if withQop {
		response = h(ha1, plain("nonce"), "00000001", cnonce, "auth", ha2)
		tail = fmt.Sprintf(`, qop=auth, nc=00000001, cnonce="%s"`, cnonce)
	}
	if f["algorithm"] != "" {
		tail += ", algorithm=" + f["algorithm"]
	}
	if f["opaque"] != "" {
		tail += fmt.Sprintf(`, opaque="%s"`, f["opaque"])
	}
	return fmt.Sprintf(`Digest username="%s", realm="%s", nonce="%s", uri="%s", response="%s"%s`,
		strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(login.Username), f["realm"], f["nonce"], uri, response, tail)
}
