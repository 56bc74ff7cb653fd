package netconf

import (
	"encoding/json"
	"encoding/xml"
	"io"
	"strings"
	"testing"

	"usm-satellite/jobs"
)

const hello11 = `<hello xmlns="` + namespace + `"><capabilities><capability>` + base11 + `</capability></capabilities><session-id>4</session-id></hello>`

// FuzzSession demands that nothing that a server says breaks the session, and
// that what comes out is JSON no larger than the job allows.
func FuzzSession(f *testing.F) {
	hello10 := strings.Replace(hello11, base11, base10, 1)
	reply := `<rpc-reply message-id="1" xmlns="` + namespace + `"><data>x</data></rpc-reply>`
	f.Add(hello10 + endOfMessage + reply + endOfMessage)
	f.Add(hello10 + endOfMessage + `<rpc-reply><rpc-error><error-severity>error</error-severity><error-message>no</error-message></rpc-error></rpc-reply>` + endOfMessage)
	f.Add(hello11 + endOfMessage + "\n#4\n<rpc\n#1\n>\n##\n")
	f.Fuzz(func(t *testing.T, stream string) {
		const room = 4096
		s := &session{framer: newFramer(struct {
			io.Reader
			io.Writer
		}{strings.NewReader(stream), io.Discard}, maxHello), room: room}
		if s.hello() != nil {
			return
		}
		s.limit = room
		fault := s.all(t.Context(), &params{RPC: operations{"<get/>", "<get/>"}, names: []string{"get", "get"}})
		if fault == nil && s.data.Replies[1].State != stateAcknowledged {
			t.Fatalf("no fault, and %+v", s.data.Replies)
		}
		if fault != nil && fault.Code == jobs.CodeInternal {
			t.Fatal(fault)
		}
		size := 0
		for _, r := range s.data.Replies {
			encoded, err := json.Marshal(r.XML)
			if err != nil {
				t.Fatal(err)
			}
			size += len(encoded) - len(`""`)
		}
		if size > 2*room {
			t.Fatalf("replies of %d bytes where %d are allowed", size, room)
		}
	})
}

// FuzzOperation demands that what passes for one operation is one element to
// another reader, too, and cannot end the message that it is put into.
func FuzzOperation(f *testing.F) {
	f.Add(`<get-config><source><running/></source></get-config>`)
	f.Add(`<get/><edit-config/>`)
	f.Add(`<get><!-- ]]> --></get>`)
	f.Fuzz(func(t *testing.T, operation string) {
		name, err := operationName(operation)
		if err != nil {
			return
		}
		if strings.Contains(operation, endOfMessage) {
			t.Fatalf("%q ends the message", operation)
		}
		var message struct {
			Operations []struct{ XMLName xml.Name } `xml:",any"`
			Text       string                       `xml:",chardata"`
		}
		if err := xml.Unmarshal([]byte("<rpc>"+operation+"</rpc>"), &message); err != nil {
			t.Fatalf("%q passed: %v", operation, err)
		}
		if len(message.Operations) != 1 || message.Operations[0].XMLName.Local != name || strings.TrimSpace(message.Text) != "" {
			t.Fatalf("%q passed as %q, and is %+v", operation, name, message)
		}
	})
}
