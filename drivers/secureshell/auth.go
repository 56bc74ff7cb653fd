package secureshell

import (
	"errors"

	"golang.org/x/crypto/ssh"

	"usm-satellite/jobs"
)

// maxQuestions bounds a keyboard-interactive dialogue (RFC 4256).
const maxQuestions = 8

// authMethods offers what the credential has: its key, then its password, as
// a password and as the answer to each question with a hidden answer.
func authMethods(login *jobs.LoginCredential) ([]ssh.AuthMethod, *jobs.Fault) {
	var methods []ssh.AuthMethod
	if !login.PrivateKey.IsZero() {
		signer, fault := parseKey(login)
		if fault != nil {
			return nil, fault
		}
		methods = append(methods, ssh.PublicKeys(signer))
	}
	if !login.Password.IsZero() || len(methods) == 0 {
		methods = append(methods, ssh.Password(login.Password.Reveal()), ssh.KeyboardInteractive(answers(login)))
	}
	return methods, nil
}

func parseKey(login *jobs.LoginCredential) (ssh.Signer, *jobs.Fault) {
	pem := []byte(login.PrivateKey.Reveal())
	signer, err := ssh.ParsePrivateKey(pem)
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) {
		if login.Passphrase.IsZero() {
			return nil, jobs.Faultf(jobs.CodeAuthFailed, jobs.StageCredentials, "credentials: the private key is locked and the passphrase is missing")
		}
		if signer, err = ssh.ParsePrivateKeyWithPassphrase(pem, []byte(login.Passphrase.Reveal())); err != nil {
			return nil, jobs.Faultf(jobs.CodeAuthFailed, jobs.StageCredentials, "credentials: the passphrase does not open the private key")
		}
	}
	if err != nil {
		return nil, jobs.Faultf(jobs.CodeAuthFailed, jobs.StageCredentials, "credentials: the private key cannot be read; it must be in PEM or OpenSSH form")
	}
	return signer, nil
}

// answers gives the password to hidden questions and the name to open ones.
func answers(login *jobs.LoginCredential) ssh.KeyboardInteractiveChallenge {
	asked := 0
	return func(_, _ string, questions []string, echos []bool) ([]string, error) {
		out := make([]string, len(questions))
		for i := range questions {
			if asked++; asked > maxQuestions {
				return nil, errors.New("too many questions")
			}
			out[i] = login.Password.Reveal()
			if echos[i] {
				out[i] = login.Username
			}
		}
		return out, nil
	}
}
