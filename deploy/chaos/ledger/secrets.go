package ledger

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
)

// FindSecrets searches every file below dir for the secrets, as they are and
// in the encodings in which they leak.
func FindSecrets(dir string, secrets []string) ([]Violation, error) {
	var found []Violation
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for i, secret := range secrets {
			if contains(data, secret) {
				found = append(found, Violation{Secret, path, "secret " + string(rune('A'+i)) + " is in it"})
			}
		}
		return nil
	})
	return found, err
}

func contains(data []byte, secret string) bool {
	if bytes.Contains(data, []byte(secret)) || bytes.Contains(data, []byte(url.QueryEscape(secret))) ||
		bytes.Contains(data, []byte(url.PathEscape(secret))) || bytes.Contains(data, []byte(hex.EncodeToString([]byte(secret)))) {
		return true
	}
	// In base64 a secret looks different at each of three places; its ends
	// depend on their neighbours.
	for shift := range 3 {
		text := base64.RawStdEncoding.EncodeToString(append(make([]byte, shift), secret...))
		if inner := text[min(len(text), shift+1) : len(text)-1]; len(inner) > 5 && bytes.Contains(data, []byte(inner)) {
			return true
		}
	}
	return false
}
