package snmp

import (
	"context"
	"encoding/hex"
	"errors"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gosnmp/gosnmp"

	"usm-satellite/jobs"
)

// Tries of one request. The first wait is short: most losses are single, and a
// device that is there answers in milliseconds.
const (
	firstTimeout = 1500 * time.Millisecond
	readRetries  = 2
	libraryOIDs  = 60 // gosnmp refuses more varbinds in a request
)

// session is one credential at one device, for one job.
type session struct {
	*gosnmp.GoSNMP

	ctx    context.Context
	device string // key of the memory
	known  *memory
	quirks quirks
}

// each opens a session with each credential of the job in turn, until one is
// not refused.
func (d *driver) each(ctx context.Context, job *jobs.Job, do func(*session) error) error {
	creds, fault := d.credentials(job)
	if fault != nil {
		return fault
	}
	var err error
	for _, cred := range creds {
		if err = d.with(ctx, job, cred, do); !refused(err) {
			return err
		}
	}
	return err
}

// refused says that another credential may fare better. A wrong community is
// met with silence, so a timeout is a refusal too, where nothing was answered.
func refused(err error) bool {
	var fault *jobs.Fault
	return errors.As(err, &fault) && (fault.Code == jobs.CodeAuthFailed || fault.Code == jobs.CodeTimeout && fault.Stage == jobs.StageConnect)
}

func (d *driver) credentials(job *jobs.Job) ([]jobs.SNMPCredential, *jobs.Fault) {
	var creds []jobs.SNMPCredential
	for _, c := range job.Credentials {
		if c.Ref != "" {
			if d.Secret == nil {
				return nil, jobs.Faultf(jobs.CodeNoCredentials, jobs.StageCredentials, "credentials: this satellite has no secrets to refer to")
			}
			found, fault := d.Secret(c.Ref)
			if fault != nil {
				return nil, fault
			}
			c = found
		}
		if c.SNMP != nil {
			creds = append(creds, *c.SNMP)
		}
	}
	if len(creds) == 0 {
		return nil, jobs.Faultf(jobs.CodeNoCredentials, jobs.StageCredentials, "credentials: %s needs one of kind snmp", job.Action)
	}
	return creds, nil
}

func (d *driver) with(ctx context.Context, job *jobs.Job, cred jobs.SNMPCredential, do func(*session) error) error {
	addr, err := d.Network.Resolve(ctx, job.Target.Address)
	if err != nil {
		return err
	}
	port := job.Target.Port
	if port == 0 {
		port = 161
	}
	client := &gosnmp.GoSNMP{
		Target: addr.String(), Port: uint16(port), Transport: "udp", Context: ctx, Control: d.Network.Control,
		Timeout: min(firstTimeout, max(job.Timeout/4, 50*time.Millisecond)), Retries: readRetries, ExponentialTimeout: true,
		MaxOids: libraryOIDs,
	}
	if job.Action == "snmp.set" {
		client.Retries = 0 // a lost reply must not make a second write
		client.Timeout = job.Timeout
	}
	if fault := authenticate(client, cred); fault != nil {
		return fault
	}
	if err := client.Connect(); err != nil {
		return jobs.DialFault(ctx, err)
	}
	// The library waits for packets without looking at ctx.
	conn := client.Conn
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		stop()
		_ = client.Close()
	}()
	device := net.JoinHostPort(addr.String(), strconv.Itoa(port))
	s := &session{GoSNMP: client, ctx: ctx, device: device, known: d.learned, quirks: d.learned.get(device)}
	return do(s)
}

// authenticate puts a credential into a client. Every client gets security
// parameters of its own: shared ones mix up engines.
func authenticate(c *gosnmp.GoSNMP, cred jobs.SNMPCredential) *jobs.Fault {
	switch cred.Version {
	case "1":
		c.Version, c.Community = gosnmp.Version1, cred.Community.Reveal()
	case "2c", "2", "":
		c.Version, c.Community = gosnmp.Version2c, cred.Community.Reveal()
	case "3":
		return authenticateV3(c, cred)
	default:
		return jobs.Invalid("credentials.snmp.version", `must be "1", "2c" or "3"`)
	}
	return nil
}

func authenticateV3(c *gosnmp.GoSNMP, cred jobs.SNMPCredential) *jobs.Fault {
	auth, ok := authProtocols()[strings.ToUpper(cred.AuthProtocol)]
	if !ok {
		return jobs.Invalid("credentials.snmp.auth_protocol", "must be MD5, SHA, SHA-224, SHA-256, SHA-384, SHA-512 or nothing")
	}
	priv, ok := privProtocols()[strings.ToUpper(cred.PrivProtocol)]
	if !ok {
		return jobs.Invalid("credentials.snmp.priv_protocol", "must be DES, AES, AES-192, AES-256, AES-192-C, AES-256-C or nothing")
	}
	flags := gosnmp.NoAuthNoPriv
	switch {
	case auth > gosnmp.NoAuth && priv > gosnmp.NoPriv:
		flags = gosnmp.AuthPriv
	case auth > gosnmp.NoAuth:
		flags = gosnmp.AuthNoPriv
	case priv > gosnmp.NoPriv:
		return jobs.Invalid("credentials.snmp.priv_protocol", "needs an auth_protocol (RFC 3414 knows no privacy without authentication)")
	}
	if fault := checkPasswords(cred, auth, priv); fault != nil {
		return fault
	}
	c.Version, c.SecurityModel, c.MsgFlags = gosnmp.Version3, gosnmp.UserSecurityModel, flags
	c.ContextName = cred.Context
	if cred.ContextEngineID != "" {
		id, err := hex.DecodeString(strings.TrimPrefix(cred.ContextEngineID, "0x"))
		if err != nil {
			return jobs.Invalid("credentials.snmp.context_engine_id", "must be hexadecimal")
		}
		c.ContextEngineID = string(id)
	}
	c.SecurityParameters = &gosnmp.UsmSecurityParameters{
		UserName: cred.Username, AuthenticationProtocol: auth, AuthenticationPassphrase: cred.AuthPassword.Reveal(),
		PrivacyProtocol: priv, PrivacyPassphrase: cred.PrivPassword.Reveal(),
	}
	return nil
}

func checkPasswords(cred jobs.SNMPCredential, auth gosnmp.SnmpV3AuthProtocol, priv gosnmp.SnmpV3PrivProtocol) *jobs.Fault {
	const least = 8 // RFC 3414, 11.2
	switch {
	case cred.Username == "":
		return jobs.Invalid("credentials.snmp.username", "is missing")
	case auth > gosnmp.NoAuth && len(cred.AuthPassword.Reveal()) < least:
		return jobs.Invalid("credentials.snmp.auth_password", "must have at least %d characters", least)
	case priv > gosnmp.NoPriv && len(cred.PrivPassword.Reveal()) < least:
		return jobs.Invalid("credentials.snmp.priv_password", "must have at least %d characters", least)
	}
	return nil
}

func authProtocols() map[string]gosnmp.SnmpV3AuthProtocol {
	return map[string]gosnmp.SnmpV3AuthProtocol{
		"": gosnmp.NoAuth, "MD5": gosnmp.MD5, "SHA": gosnmp.SHA, "SHA-1": gosnmp.SHA,
		"SHA-224": gosnmp.SHA224, "SHA-256": gosnmp.SHA256, "SHA-384": gosnmp.SHA384, "SHA-512": gosnmp.SHA512,
	}
}

func privProtocols() map[string]gosnmp.SnmpV3PrivProtocol {
	return map[string]gosnmp.SnmpV3PrivProtocol{
		"": gosnmp.NoPriv, "DES": gosnmp.DES, "AES": gosnmp.AES, "AES-128": gosnmp.AES,
		"AES-192": gosnmp.AES192, "AES-256": gosnmp.AES256, "AES-192-C": gosnmp.AES192C, "AES-256-C": gosnmp.AES256C,
	}
}

// get asks for a few objects in one request. A device that finds the answer
// too big is asked for half of them at a time, and is known for it from then on.
func (s *session) get(oids []string) ([]Varbind, error) {
	packet, err := s.Get(oids)
	if err != nil {
		return nil, s.fault(err)
	}
	switch {
	case packet.Error == gosnmp.TooBig && len(oids) > 1:
		s.quirks.MaxOIDs = len(oids) / 2
		s.known.put(s.device, s.quirks)
		return s.halves(oids)
	case packet.Error == gosnmp.NoSuchName && len(oids) > 1: // version 1 refuses all for the lack of one
		return s.halves(oids)
	case packet.Error == gosnmp.NoSuchName:
		return []Varbind{{OID: oids[0], Type: "NoSuchObject"}}, nil
	case packet.Error != gosnmp.NoError:
		return nil, statusFault(packet)
	}
	vars := make([]Varbind, len(packet.Variables))
	for i, pdu := range packet.Variables {
		vars[i] = varbind(pdu)
	}
	return vars, nil
}

func (s *session) halves(oids []string) ([]Varbind, error) {
	first, err := s.get(oids[:len(oids)/2])
	if err != nil {
		return nil, err
	}
	rest, err := s.get(oids[len(oids)/2:])
	return append(first, rest...), err
}

func (s *session) maxOIDs() int {
	if s.quirks.MaxOIDs > 0 {
		return s.quirks.MaxOIDs
	}
	return min(libraryOIDs, 40)
}

func (s *session) report() any {
	if s.quirks == (quirks{}) {
		return nil
	}
	return s.quirks
}

// fault names what went wrong. The texts of the library stay here: they may
// hold the stacks of the whole process.
func (s *session) fault(err error) error {
	var netErr net.Error
	v3 := s.Version == gosnmp.Version3
	connect := func(code jobs.Code, format string, args ...any) error {
		return jobs.Faultf(code, jobs.StageConnect, format, args...)
	}
	login := func(message string) error { return jobs.Faultf(jobs.CodeAuthFailed, jobs.StageLogin, "%s", message) }
	switch {
	case s.ctx.Err() != nil:
		return jobs.Faultf(jobs.CodeTimeout, jobs.StageConnect, "no answer within the job's time limit")
	case errors.Is(err, syscall.ECONNREFUSED):
		return connect(jobs.CodeRefused, "the device says that no SNMP agent listens on port %d", s.Port)
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return connect(jobs.CodeUnreachable, "there is no route to the device")
	case errors.Is(err, gosnmp.ErrUnknownUsername):
		return login("the device does not know this SNMPv3 user (usmStatsUnknownUserNames)")
	case errors.Is(err, gosnmp.ErrWrongDigest):
		return login("the device refuses the authentication password or protocol of this SNMPv3 user (usmStatsWrongDigests)")
	case errors.Is(err, gosnmp.ErrDecryption):
		return login("the device cannot decrypt: the privacy password or protocol of this SNMPv3 user is wrong (usmStatsDecryptionErrors)")
	case errors.Is(err, gosnmp.ErrUnknownSecurityLevel):
		return login("the device does not allow this security level for the SNMPv3 user (usmStatsUnsupportedSecLevels): auth or priv is missing or too much")
	case errors.Is(err, gosnmp.ErrNotInTimeWindow):
		return login("the device's SNMPv3 clock does not fit, even after asking for it again (usmStatsNotInTimeWindows)")
	case errors.Is(err, gosnmp.ErrUnknownEngineID):
		return login("the device does not accept its own engine id (usmStatsUnknownEngineIDs)")
	case strings.Contains(err.Error(), "not authentic"), strings.Contains(err.Error(), "not authenticated"):
		return login("the device's answer is not authentic for this SNMPv3 user: user, password or protocol is wrong")
	case errors.Is(err, gosnmp.ErrMaxRetriesExceeded), strings.Contains(err.Error(), "request timeout"), errors.As(err, &netErr) && netErr.Timeout():
		if v3 {
			return connect(jobs.CodeTimeout, "the device does not answer SNMPv3 requests")
		}
		return connect(jobs.CodeTimeout, "the device does not answer: it is silent, or the community is wrong (devices meet that with silence)")
	default:
		return jobs.Faultf(jobs.CodeProtocolError, jobs.StageParse, "the device's answer is not valid SNMP")
	}
}

// statusFault names an error-status of RFC 3416.
func statusFault(p *gosnmp.SnmpPacket) error {
	code, stage := jobs.CodeCommandError, jobs.StageExecute
	switch p.Error {
	case gosnmp.TooBig:
		code = jobs.CodeTooBig
	case gosnmp.NoSuchName:
		code = jobs.CodeNoSuchObject
	case gosnmp.NoAccess, gosnmp.AuthorizationError:
		code = jobs.CodeAuthFailed
	default:
	}
	oid := ""
	if i := int(p.ErrorIndex) - 1; i >= 0 && i < len(p.Variables) {
		oid = " at " + strings.TrimPrefix(p.Variables[i].Name, ".")
	}
	return jobs.Faultf(code, stage, "the device answered %s%s", p.Error, oid)
}
