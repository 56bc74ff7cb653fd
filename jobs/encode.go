package jobs

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

// encode writes r as JSON. The data is spliced in as it is: encoding/json
// would check and copy it once more, which costs more than all the rest.
func (r *Result) encode() []byte {
	data, learned := r.Data, r.Learned
	r.Data, r.Learned = nil, nil
	body, err := json.Marshal(r)
	r.Data, r.Learned = data, learned
	if err != nil { // metadata is the only field that can fail, and it was read from valid JSON
		r.Metadata = nil
		return r.encode()
	}
	body = splice(body, "data", data)
	return splice(body, "learned", learned)
}

func splice(object []byte, name string, value json.RawMessage) []byte {
	if len(value) == 0 {
		return object
	}
	object = append(object[:len(object)-1], `,"`...)
	object = append(object, name...)
	object = append(object, `":`...)
	object = append(object, value...)
	return append(object, '}')
}

// JSONSize is the most that a string takes in a result, in bytes, without its
// quotes: drivers count with it what still fits.
func JSONSize(s string) int {
	n := len(s)
	for _, r := range s {
		switch {
		case r == '"', r == '\\', r == '\t', r == '\n', r == '\r', r == '\b', r == '\f':
			n++
		case r < ' ', r == '<', r == '>', r == '&', r == utf8.RuneError:
			n += 5
		case r == '\u2028', r == '\u2029':
			n += 3
		}
	}
	return n
}

// fromStore marks a result as one that is sent again.
func fromStore(body []byte) []byte {
	const flag = `"from_store":true`
	if len(body) < 2 || bytes.HasPrefix(body[1:], []byte(flag)) {
		return body
	}
	marked := make([]byte, 0, len(body)+len(flag)+1)
	marked = append(marked, '{')
	marked = append(marked, flag...)
	marked = append(marked, ',')
	return append(marked, body[1:]...)
}

// withJobID puts another id into a result.
func withJobID(body []byte, jobID string) []byte {
	var head struct {
		JobID string `json:"job_id"`
	}
	if err := json.Unmarshal(body, &head); err != nil || head.JobID == jobID {
		return body
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return body
	}
	fields["job_id"], _ = json.Marshal(jobID)
	changed, err := json.Marshal(fields)
	if err != nil {
		return body
	}
	return changed
}
