package snmp

import (
	"encoding/hex"
	"strings"

	"github.com/gosnmp/gosnmp"

	"usm-satellite/jobs"
)

func (d *driver) credentials(job *jobs.Job) ([]jobs.SNMPCredential, *jobs.Fault) {
	all, fault := d.Secret.Resolve(job)
	if fault != nil {
		return nil, fault
	}
	var creds []jobs.SNMPCredential
	for _, c := range all {
		if c.SNMP != nil {
			creds = append(creds, *c.SNMP)
		}
	}
	if len(creds) == 0 {
		return nil, jobs.Faultf(jobs.CodeNoCredentials, jobs.StageCredentials, "credentials: %s needs one of kind snmp", job.Action)
	}
	return creds, nil
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
