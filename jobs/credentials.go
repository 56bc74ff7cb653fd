package jobs

// SecretFunc finds the credential that a job names by ref. nil finds none.
type SecretFunc func(ref string) (Credential, *Fault)

// Resolve returns the credentials of a job in their order, those that it names
// by ref looked up.
func (find SecretFunc) Resolve(job *Job) ([]Credential, *Fault) {
	creds := make([]Credential, 0, len(job.Credentials))
	for _, c := range job.Credentials {
		if c.Ref != "" {
			if find == nil {
				return nil, Faultf(CodeNoCredentials, StageCredentials, "credentials: this satellite has no secrets to refer to")
			}
			found, fault := find(c.Ref)
			if fault != nil {
				return nil, fault
			}
			c = found
		}
		creds = append(creds, c)
	}
	return creds, nil
}
