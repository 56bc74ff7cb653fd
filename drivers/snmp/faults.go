package snmp

import (
	"errors"
	"strings"
	"syscall"

	"github.com/gosnmp/gosnmp"

	"usm-satellite/jobs"
)

const notSNMP = "the device's answer is not valid SNMP"

// fault names what went wrong. The texts of the library stay here: they may
// hold the stacks of the whole process.
func (s *session) fault(err error) error {
	connect := func(code jobs.Code, format string, args ...any) error {
		return jobs.Faultf(code, jobs.StageConnect, format, args...)
	}
	var fault *jobs.Fault
	switch {
	case s.ctx.Err() != nil && s.Version != gosnmp.Version3 && !s.heard && s.wire.answers == 0:
		return connect(jobs.CodeTimeout, "no answer within the job's time limit: the device is silent, or the community is wrong (devices meet that with silence)")
	case s.ctx.Err() != nil:
		return connect(jobs.CodeTimeout, "no answer within the job's time limit")
	case errors.As(err, &fault):
		return fault
	case errors.Is(err, syscall.ECONNREFUSED):
		return connect(jobs.CodeRefused, "the device says that no SNMP agent listens on port %d", s.Port)
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return connect(jobs.CodeUnreachable, "there is no route to the device")
	}
	if fault := s.loginFault(err); fault != nil {
		return fault
	}
	switch {
	case !silent(err):
		return jobs.Faultf(jobs.CodeProtocolError, jobs.StageParse, "%s", notSNMP)
	case s.wire.answers > 0 && s.late():
		return jobs.Faultf(jobs.CodeTimeout, jobs.StageExecute, "the device answers too late: what came answers an earlier request; give the job more time")
	case s.wire.answers > 0:
		return jobs.Faultf(jobs.CodeProtocolError, jobs.StageParse, "the device sent %d packets, none of which answers the request", s.wire.answers)
	case s.heard:
		return jobs.Faultf(jobs.CodeTimeout, jobs.StageExecute, "the device answered before and is silent now")
	case s.Version != gosnmp.Version3:
		return connect(jobs.CodeTimeout, "the device does not answer: it is silent, or the community is wrong (devices meet that with silence)")
	case s.device.PDUBytes > 0 && s.discovered():
		return connect(jobs.CodeTimeout, "the device tells its SNMPv3 engine, and does not answer the request: user or privacy password may be wrong (some devices meet that with silence)")
	default:
		return connect(jobs.CodeTimeout, "the device does not answer SNMPv3 requests")
	}
}

// late says that the last packet answers a request that was given up. The
// library numbers its requests upwards.
func (s *session) late() bool {
	const most = 1000 // requests ago
	sent, err := decode(&gosnmp.GoSNMP{Version: s.Version}, s.wire.sent)
	if err != nil || s.Version == gosnmp.Version3 {
		return false
	}
	got, err := decode(&gosnmp.GoSNMP{Version: s.Version}, s.wire.got)
	return err == nil && got.PDUType == gosnmp.GetResponse && got.RequestID < sent.RequestID && sent.RequestID-got.RequestID < most
}

func (s *session) discovered() bool {
	sp, ok := s.SecurityParameters.(*gosnmp.UsmSecurityParameters)
	return ok && sp.AuthoritativeEngineID != ""
}

// loginFault words what a device, or the library, says against a request of
// version 3; nil: nothing.
func (s *session) loginFault(err error) error {
	if s.Version != gosnmp.Version3 {
		return nil
	}
	report := s.wire.report
	is := func(r usmReport, known error) bool { return report == r || report == 0 && errors.Is(err, known) }
	message := ""
	switch {
	case is(unknownUserNames, gosnmp.ErrUnknownUsername):
		message = "the device does not know this SNMPv3 user (usmStatsUnknownUserNames)"
	case is(wrongDigests, gosnmp.ErrWrongDigest):
		message = "the device refuses the authentication password or protocol of this SNMPv3 user (usmStatsWrongDigests)"
	case is(decryptionErrors, gosnmp.ErrDecryption):
		message = "the device cannot decrypt: the privacy password or protocol of this SNMPv3 user is wrong (usmStatsDecryptionErrors)"
	case is(unsupportedSecLevels, gosnmp.ErrUnknownSecurityLevel):
		message = "the device does not allow this security level for the SNMPv3 user (usmStatsUnsupportedSecLevels): auth or priv is missing or too much"
	case is(notInTimeWindows, gosnmp.ErrNotInTimeWindow):
		message = "the device's SNMPv3 clock does not fit, even after asking for it again (usmStatsNotInTimeWindows)"
	case s.discovered() && is(unknownEngineIDs, gosnmp.ErrUnknownEngineID):
		message = "the device does not accept its own engine id (usmStatsUnknownEngineIDs)"
	case strings.Contains(err.Error(), "not authentic"):
		message = notAuthentic
	default:
		return nil
	}
	return jobs.Faultf(jobs.CodeAuthFailed, jobs.StageLogin, "%s", message)
}

const notAuthentic = "the device's answer is not authentic for this SNMPv3 user: user, password or protocol is wrong"

// statusFault names an error-status of RFC 3416.
func statusFault(p *gosnmp.SnmpPacket) error {
	code := jobs.CodeCommandError
	switch p.Error {
	case gosnmp.TooBig:
		code = jobs.CodeTooBig
	case gosnmp.NoSuchName:
		code = jobs.CodeNoSuchObject
	case gosnmp.NoAccess, gosnmp.AuthorizationError:
		code = jobs.CodeAuthFailed
	case gosnmp.UndoFailed: // RFC 3416, 4.2.5: part of the change may have stayed
		code = jobs.CodeProtocolError
	default:
	}
	oid := ""
	if i := int(p.ErrorIndex) - 1; i >= 0 && i < len(p.Variables) {
		oid = " at " + strings.TrimPrefix(p.Variables[i].Name, ".")
	}
	return jobs.Faultf(code, jobs.StageExecute, "the device answered %s%s", p.Error, oid)
}
