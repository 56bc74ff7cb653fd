package routeros

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"usm-satellite/jobs"
)

// peer answers each sentence with the words that answers has for its command;
// nil: it hangs up. It is written from the manual, and is no RouterOS.
func peer(t *testing.T, answers map[string][][]string) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			converse(conn, answers)
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
	})
	return ln.Addr().(*net.TCPAddr).Port
}

func converse(conn net.Conn, answers map[string][][]string) {
	in := bufio.NewReader(conn)
	for {
		words, _, err := readSentence(in)
		if err != nil {
			return
		}
		answer, ok := answers[words[0]]
		switch {
		case words[0] == "/login" && !ok:
			answer = [][]string{{"!done"}}
		case answer == nil:
			return
		}
		for _, words := range answer {
			if _, err := conn.Write(appendSentence(nil, words)); err != nil {
				return
			}
		}
	}
}

func call(t *testing.T, port int, sentences string) (jobs.Class, jobs.Output, *jobs.Fault) {
	t.Helper()
	registry := Actions(Options{Network: &jobs.Network{Policy: &jobs.Policy{Targets: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}}})
	job := &jobs.Job{
		ID: "a", Action: "routeros.call", Target: jobs.Target{Address: "127.0.0.1", Port: port}, Timeout: 30 * time.Second,
		Params:      json.RawMessage(`{"sentences":` + sentences + `}`),
		Credentials: []jobs.Credential{{Login: &jobs.LoginCredential{Username: "admin", Password: jobs.NewSecret("pass-5ecret")}}},
	}
	action, fault := registry.Judge(job)
	if fault != nil {
		return "", jobs.Output{}, fault
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), job.Timeout, jobs.ErrTimeout)
	defer cancel()
	out, err := action.Driver.Run(ctx, job)
	if err != nil {
		fault = jobs.FaultOf(ctx, err)
	}
	return job.Class, out, fault
}

func TestRepliesCome(t *testing.T) {
	port := peer(t, map[string][][]string{"/ip/address/print": {
		{"!re", "=.id=*1", "=comment=a=b", "=empty=", ".section=0"}, {"!done", "=ret=1"},
	}})
	class, out, fault := call(t, port, `[["/ip/address/print"]]`)
	if fault != nil || class != jobs.Read {
		t.Fatalf("class %s, %v", class, fault)
	}
	got, _ := json.Marshal(out.Data)
	const want = `{"replies":[{"sentence":1,"type":"!re","attributes":{".id":"*1",".section":"0","comment":"a=b","empty":""}},` +
		`{"sentence":1,"type":"!done","attributes":{"ret":"1"}}]}`
	if string(got) != want {
		t.Errorf("got\n%s, want\n%s", got, want)
	}
}

func TestTheSentencesDecideTheClass(t *testing.T) {
	for sentences, want := range map[string]jobs.Class{
		`[["/ip/address/print"],["/interface/getall","?type=ether"]]`: jobs.Read,
		`[["/ip/address/print"],["/ip/address/add","=address=x"]]`:    jobs.Write,
		`[["/system/reboot"]]`:                      jobs.Write,
		`[["/log/print","=file=log.txt"]]`:          jobs.Write,
		`[["/system/script/run","=number=print"]]`:  jobs.Write,
		`[["/blueprint"]]`:                          jobs.Write,
		`[["/ip/address/set","=comment=/x/print"]]`: jobs.Write,
	} {
		job := &jobs.Job{Params: json.RawMessage(`{"sentences":` + sentences + `}`)}
		if got := classOf(job); got != want {
			t.Errorf("%s is a %s", sentences, got)
		}
	}
}

func TestBadSentencesAreInvalid(t *testing.T) {
	for _, sentences := range []string{
		`[]`, `[[]]`, `[["ip address print"]]`, `[["/"]]`, `[["/ip/address/listen"]]`, `[["/login"]]`, `[["/quit"]]`,
		`[["/a/print","",["/system/reboot"]]]`, `[["/a/print",""]]`, `[["/a/print",".tag=1"]]`, `[["/a/print","/system/reboot"]]`,
		`[["/a/print","=x=` + strings.Repeat("y", maxCallBytes) + `"]]`,
	} {
		if fault := check(&jobs.Job{Params: json.RawMessage(`{"sentences":` + sentences + `}`)}); fault == nil || fault.Code != jobs.CodeInvalidJob {
			t.Errorf("%.60s: got %v", sentences, fault)
		}
	}
}

func TestARefusalStopsTheCalls(t *testing.T) {
	port := peer(t, map[string][][]string{
		"/ip/address/add": {{"!trap", "=category=1", "=message=bad value pass-5ecret"}, {"!done"}},
	})
	_, out, fault := call(t, port, `[["/ip/address/add","=address=x"],["/system/reboot"]]`)
	if fault == nil || fault.Code != jobs.CodeCommandError || !strings.Contains(fault.Message, "bad value") || strings.Contains(fault.Message, "5ecret") {
		t.Fatalf("got %v", fault)
	}
	if replies := out.Data.(data).Replies; len(replies) != 2 || replies[1].Type != "!done" {
		t.Errorf("got %v", replies)
	}
}

// The stage says whether a change may have left: where none has, the core may
// send the job again.
func TestTheStageSaysWhatHasLeft(t *testing.T) {
	ok := [][]string{{"!done"}}
	for _, c := range []struct {
		name    string
		answers map[string][][]string
		want    jobs.Stage
	}{
		{"hangs up at the login", map[string][][]string{"/login": nil}, jobs.StageLogin},
		{"hangs up at the read before", map[string][][]string{}, jobs.StageLogin},
		{"hangs up at the change", map[string][][]string{"/a/print": ok}, jobs.StageExecute},
		{"hangs up at the read after", map[string][][]string{"/a/print": ok, "/a/set": ok}, jobs.StageExecute},
		{"ends the session at the change", map[string][][]string{"/a/print": ok, "/a/set": {{"!fatal", "too many commands"}}}, jobs.StageExecute},
	} {
		port := peer(t, c.answers)
		_, _, fault := call(t, port, `[["/a/print"],["/a/set","=x=1"],["/b/print"]]`)
		if fault == nil || fault.Stage != c.want || fault.Code != jobs.CodeProtocolError {
			t.Errorf("%s: got %+v", c.name, fault)
		}
	}
}

func TestLogins(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer [][]string
		want   jobs.Code
	}{
		{"refused", [][]string{{"!trap", "=message=invalid user name or password (6)"}, {"!done"}}, jobs.CodeAuthFailed},
		{"the session ends", [][]string{{"!fatal", "invalid user"}}, jobs.CodeAuthFailed},
		{"of RouterOS before 6.43", [][]string{{"!done", "=ret=ebddd18303a54111e2dea05a92ab46b4"}}, jobs.CodeProtocolError},
		{"no RouterOS", [][]string{{"SSH-2.0-x"}}, jobs.CodeProtocolError},
	} {
		_, _, fault := call(t, peer(t, map[string][][]string{"/login": c.answer}), `[["/a/print"]]`)
		if fault == nil || fault.Code != c.want || fault.Stage != jobs.StageLogin {
			t.Errorf("%s: got %v", c.name, fault)
		}
	}
}
