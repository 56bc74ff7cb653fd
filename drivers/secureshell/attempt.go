package secureshell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"usm-satellite/jobs"
)

// attempt is one Dial: it may take several connections, one for each
// credential, and more to find the key that the job has pinned.
type attempt struct {
	dialer   *Dialer
	req      Request
	address  string
	known    []ssh.PublicKey // keys that the store has for address
	pin      pin
	skip     []string // host key algorithms that gave another key than the pinned one
	accepted string   // fingerprint of the key that was let through
	warnings []string
}

func (a *attempt) prepare() error {
	var err error
	if a.pin, err = parsePin(a.req.HostKey); err != nil {
		return jobs.Invalid("params.host_key", "%v", err)
	}
	if a.pin.set() {
		return nil
	}
	if a.known, err = a.dialer.keys.lookup(a.address); err != nil {
		return jobs.Faultf(jobs.CodeInternal, jobs.StageConnect,
			"the known host keys of the satellite cannot be read; see known_hosts in its state directory")
	}
	return nil
}

// maxKeyTypes bounds how many kinds of host key a device is asked for while
// the pinned one is looked for.
const maxKeyTypes = 5

func (a *attempt) login(ctx context.Context, credential jobs.Credential) (*Client, error) {
	for range maxKeyTypes {
		before := len(a.skip)
		client, err := a.connect(ctx, credential)
		if err == nil || len(a.skip) == before {
			return client, err
		}
	}
	return nil, keyChanged("the pinned key")
}

func (a *attempt) connect(ctx context.Context, credential jobs.Credential) (*Client, error) {
	auth, fault := authMethods(credential.Login)
	if fault != nil {
		return nil, fault
	}
	conn, err := a.dialer.network.DialContext(ctx, "tcp", a.address)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(LoginTime)
	if end, ok := ctx.Deadline(); ok && end.Before(deadline) {
		deadline = end
	}
	if err := conn.SetDeadline(deadline); err != nil {
		conn.Close()
		return nil, jobs.Faultf(jobs.CodeUnreachable, jobs.StageConnect, "the device closed the connection")
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	shake := handshake{attempt: a}
	gate := &gatedConn{Conn: conn, ctx: ctx, tokens: a.dialer.cpu}
	sshConn, channels, requests, err := ssh.NewClientConn(gate, a.address, a.config(credential.Login, auth, &shake))
	gate.open()
	if err != nil {
		conn.Close()
		return nil, a.fault(ctx, err, &shake)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil || ctx.Err() != nil {
		conn.Close()
		return nil, jobs.Faultf(jobs.CodeTimeout, jobs.StageLogin, "the job ended during the login")
	}
	return &Client{
		Client: ssh.NewClient(sshConn, channels, requests), Credential: credential, HostKey: a.accepted,
		Warnings: append(slices.Clone(a.warnings), a.cryptoWarning(sshConn)...), conn: conn,
	}, nil
}

func (a *attempt) config(login *jobs.LoginCredential, auth []ssh.AuthMethod, shake *handshake) *ssh.ClientConfig {
	algorithms := ssh.SupportedAlgorithms()
	if a.req.Legacy {
		old := ssh.InsecureAlgorithms()
		algorithms.KeyExchanges = append(algorithms.KeyExchanges, old.KeyExchanges...)
		algorithms.Ciphers = append(algorithms.Ciphers, old.Ciphers...)
		algorithms.MACs = append(algorithms.MACs, old.MACs...)
		algorithms.HostKeys = append(algorithms.HostKeys, old.HostKeys...)
	}
	config := &ssh.ClientConfig{
		User:              login.Username + a.req.UserSuffix,
		Auth:              auth,
		HostKeyCallback:   shake.hostKey,
		HostKeyAlgorithms: a.keyAlgorithms(algorithms.HostKeys),
		ClientVersion:     "SSH-2.0-satellite",
		BannerCallback:    func(string) error { return nil },
	}
	config.KeyExchanges, config.Ciphers, config.MACs = algorithms.KeyExchanges, algorithms.Ciphers, algorithms.MACs
	return config
}

// keyAlgorithms asks first for a key of the kind that is known: a device with
// several keys must not look changed because another one came first. Then come
// the kinds in the order of today's clients: RSA before the others makes
// dropbear 2022.83 without an RSA key crash.
func (a *attempt) keyAlgorithms(all []string) []string {
	all = slices.DeleteFunc(all, func(name string) bool {
		return strings.Contains(name, "-cert-") || slices.Contains(a.skip, name)
	})
	known := a.known
	if a.pin.key != nil {
		known = []ssh.PublicKey{a.pin.key}
	}
	slices.SortStableFunc(all, func(x, y string) int { return rank(known, x) - rank(known, y) })
	return all
}

func rank(known []ssh.PublicKey, algorithm string) int {
	switch {
	case slices.ContainsFunc(known, func(k ssh.PublicKey) bool { return slices.Contains(signatures(k.Type()), algorithm) }):
		return 0
	case algorithm == ssh.KeyAlgoED25519:
		return 1
	case strings.HasPrefix(algorithm, "ecdsa-"):
		return 2
	case strings.HasPrefix(algorithm, "rsa-sha2-"):
		return 3
	default:
		return 4
	}
}

// signatures returns the host key algorithms for a type of key (RFC 8332, 3).
func signatures(keyType string) []string {
	if keyType == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSA}
	}
	return []string{keyType}
}

// handshake notes what happened in one, for the cause of its failure.
type handshake struct {
	attempt *attempt
	keySeen bool
	refusal error // of the host key
}

func (h *handshake) hostKey(_ string, _ net.Addr, key ssh.PublicKey) error {
	h.keySeen = true
	h.refusal = h.attempt.checkKey(key)
	return h.refusal
}

func (a *attempt) checkKey(key ssh.PublicKey) error {
	print := ssh.FingerprintSHA256(key)
	if a.pin.set() {
		if !a.pin.matches(key) {
			a.skip = append(a.skip, signatures(key.Type())...)
			return keyChanged("the pinned key")
		}
		a.accepted = print
		return nil
	}
	for _, known := range a.known {
		if string(known.Marshal()) == string(key.Marshal()) {
			a.accepted = print
			return nil
		}
	}
	if len(a.known) > 0 {
		return keyChanged("the key known since the first connection")
	}
	stored, err := a.dialer.keys.add(a.address, key)
	switch {
	case err != nil:
		a.warn("the host key could not be kept in the state directory: the next connection trusts whatever it meets")
	case !stored:
		return keyChanged("the key that another connection has just met")
	default:
		a.warn("first connection to this device: its host key " + print + " was trusted and is kept")
	}
	a.known = append(a.known, key)
	a.accepted = print
	return nil
}

func (a *attempt) warn(text string) { a.warnings = append(a.warnings, text) }

func keyChanged(than string) *jobs.Fault {
	return jobs.Faultf(jobs.CodeHostKeyChanged, jobs.StageConnect,
		"the device shows another host key than %s; nothing was sent. If it was replaced, remove its line from known_hosts in the satellite's state directory or pin the new key in params.host_key", than)
}

// cryptoWarning names the broken algorithms that a legacy login came to use.
func (a *attempt) cryptoWarning(conn ssh.Conn) []string {
	meta, ok := conn.(ssh.AlgorithmsConnMetadata)
	if !a.req.Legacy || !ok {
		return nil
	}
	used, old := meta.Algorithms(), ssh.InsecureAlgorithms()
	var broken []string
	for _, pair := range []struct {
		name string
		list []string
	}{
		{used.KeyExchange, old.KeyExchanges},
		{used.HostKey, old.HostKeys},
		{used.Write.Cipher, old.Ciphers},
		{used.Write.MAC, old.MACs},
	} {
		if slices.Contains(pair.list, pair.name) {
			broken = append(broken, pair.name)
		}
	}
	if len(broken) == 0 {
		return []string{"legacy_crypto is on, and this device does not need it: turn it off"}
	}
	return []string{"legacy_crypto: this connection is protected by broken algorithms only (" + strings.Join(broken, ", ") + ")"}
}

// fault names what kept a handshake from ending well.
func (a *attempt) fault(ctx context.Context, err error, shake *handshake) *jobs.Fault {
	stage := jobs.StageConnect
	if shake.keySeen {
		stage = jobs.StageLogin
	}
	var fault *jobs.Fault
	var mismatch *ssh.AlgorithmNegotiationError
	var netErr net.Error
	text := err.Error()
	switch {
	case errors.As(shake.refusal, &fault):
		return fault
	case ctx.Err() != nil, errors.As(err, &netErr) && netErr.Timeout():
		return jobs.Faultf(jobs.CodeTimeout, stage, "the device did not finish the SSH handshake and login in time")
	case errors.As(err, &mismatch):
		return a.mismatch(mismatch)
	case strings.Contains(text, "unable to authenticate"), strings.Contains(text, "unexpected message type 51"), // SSH_MSG_USERAUTH_FAILURE
		strings.Contains(text, "disconnect, reason 2:"),
		strings.Contains(text, "disconnect, reason 14:"), strings.Contains(text, "too many authentication attempts"):
		return jobs.Faultf(jobs.CodeAuthFailed, jobs.StageLogin, "the device refused the login")
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, net.ErrClosed):
		return jobs.Faultf(jobs.CodeUnreachable, stage, "the device closed the connection during the SSH handshake")
	default:
		return jobs.Faultf(jobs.CodeProtocolError, stage, "the device does not speak SSH as it should")
	}
}

func (a *attempt) mismatch(m *ssh.AlgorithmNegotiationError) *jobs.Fault {
	if m.What == "host key" && a.pin.set() && len(a.skip) > 0 {
		return keyChanged("the pinned key")
	}
	remedy := "; if it is too old for anything better, set params.legacy_crypto"
	if a.req.Legacy {
		remedy = ""
	}
	offered := m.RequestedAlgorithms
	if len(offered) > 12 {
		offered = offered[:12]
	}
	return jobs.Faultf(jobs.CodeProtocolError, jobs.StageConnect, "no common algorithm for %s: the device offers %s%s",
		m.What, clip(fmt.Sprintf("%q", offered), 300), remedy)
}

func clip(s string, limit int) string {
	if len(s) > limit {
		return strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}
