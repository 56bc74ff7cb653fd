package main

import (
	"encoding/json"
	"os"
	"path/filepath"

	"usm-satellite/jobs"
)

// secrets are the credentials that jobs name by "ref": one JSON file each, in
// the form of the contract's inline credentials.
type secrets struct{ dir string }

func openSecrets(dir string) (secrets, error) {
	if dir == "" {
		return secrets{}, nil
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return secrets{}, usageError("USM_SECRETS_DIR is no directory that can be read")
	}
	return secrets{dir}, nil
}

// find reads a credential anew each time, so that it can be changed under way.
func (s secrets) find(ref string) (jobs.Credential, *jobs.Fault) {
	missing := jobs.Faultf(jobs.CodeNoCredentials, jobs.StageCredentials,
		"this satellite has no credential %q; put it into its USM_SECRETS_DIR as a JSON file of that name", ref)
	if s.dir == "" || ref != filepath.Base(ref) || ref[0] == '.' {
		return jobs.Credential{}, missing
	}
	text, err := os.ReadFile(filepath.Join(s.dir, ref))
	if err != nil {
		text, err = os.ReadFile(filepath.Join(s.dir, ref+".json"))
	}
	if err != nil {
		return jobs.Credential{}, missing
	}
	var c struct {
		SNMP  *jobs.SNMPCredential  `json:"snmp"`
		Login *jobs.LoginCredential `json:"login"`
		HTTP  *jobs.HTTPCredential  `json:"http"`
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return jobs.Credential{}, jobs.Faultf(jobs.CodeNoCredentials, jobs.StageCredentials, "the credential %q of this satellite is not JSON", ref)
	}
	return jobs.Credential{SNMP: c.SNMP, Login: c.Login, HTTP: c.HTTP}, nil
}
