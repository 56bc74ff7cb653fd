package routeros

import (
	"strings"

	"usm-satellite/jobs"
)

// Limits on the parameters.
const (
	maxCalls     = 64
	maxCallWords = 256
	maxCallBytes = 256 << 10
)

// params are those of routeros.call.
type params struct {
	Sentences     [][]string `json:"sentences"`
	TLS           bool       `json:"tls"`
	TLSServerName string     `json:"tls_server_name"`
	TLSCA         string     `json:"tls_ca"` // PEM
}

func check(job *jobs.Job) *jobs.Fault {
	_, fault := decode(job)
	return fault
}

func decode(job *jobs.Job) (*params, *jobs.Fault) {
	p := &params{}
	if fault := jobs.DecodeParams(job, p); fault != nil {
		return nil, fault
	}
	if len(p.Sentences) == 0 || len(p.Sentences) > maxCalls {
		return nil, jobs.Invalid("params.sentences", `must be a list of 1 to %d sentences, as [["/ip/address/print"]]`, maxCalls)
	}
	if !p.TLS && (p.TLSCA != "" || p.TLSServerName != "") {
		return nil, jobs.Invalid("params.tls", "must be true where tls_ca or tls_server_name is given")
	}
	for i, sentence := range p.Sentences {
		if fault := checkSentence(i+1, sentence); fault != nil {
			return nil, fault
		}
	}
	_, fault := p.config("")
	return p, fault
}

func checkSentence(n int, words []string) *jobs.Fault {
	bad := func(format string, args ...any) *jobs.Fault {
		return jobs.Invalid("params.sentences", "entry %d: "+format, append([]any{n}, args...)...)
	}
	if len(words) == 0 || len(words) > maxCallWords {
		return bad("must have 1 to %d words", maxCallWords)
	}
	command := words[0]
	if len(command) < 2 || command[0] != '/' || strings.ContainsAny(command, " \t\r\n=") {
		return bad("must begin with a command word, as /ip/address/print")
	}
	switch verb := lastOf(command); {
	case verb == "listen":
		return bad("must not be listen: it never ends")
	case command == "/login", command == "/quit", command == "/cancel":
		return bad("must not be %s: the satellite opens and ends the session", command)
	}
	size := 0
	for _, word := range words[1:] {
		size += len(word)
		switch {
		case word == "":
			return bad("must have no empty word: it ends a sentence")
		case word[0] != '=' && word[0] != '?':
			return bad("must have words that begin with = (attribute) or ? (query) after the command")
		}
	}
	if size > maxCallBytes {
		return bad("must have at most %d bytes", maxCallBytes)
	}
	return nil
}

func lastOf(command string) string { return command[strings.LastIndexByte(command, '/')+1:] }

// reads says that a sentence changes nothing: print and getall, unless they
// are told to write a file on the device.
func reads(words []string) bool {
	if verb := lastOf(words[0]); verb != "print" && verb != "getall" {
		return false
	}
	for _, word := range words[1:] {
		if strings.HasPrefix(word, "=file") {
			return false
		}
	}
	return true
}

func classOf(job *jobs.Job) jobs.Class {
	p, fault := decode(job)
	if fault != nil {
		return jobs.Write
	}
	for _, sentence := range p.Sentences {
		if !reads(sentence) {
			return jobs.Write
		}
	}
	return jobs.Read
}
