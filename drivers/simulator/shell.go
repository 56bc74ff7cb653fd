package simulator

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"io"
	"net"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
)

// hostKey is the same in each run of a profile, so that nobody who tries it
// out twice is warned of a changed key. It protects nothing.
func (d *device) hostKey() (ssh.Signer, error) {
	seed := sha256.Sum256([]byte("host key of the simulated device " + d.Name))
	return ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(seed[:]))
}

func (d *device) serveSSH(conn net.Conn) {
	key, err := d.hostKey()
	if err != nil {
		d.log.Error("no host key", "error", err.Error())
		return
	}
	config := &ssh.ServerConfig{
		ServerVersion: "SSH-2.0-simulator",
		PasswordCallback: func(c ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
			if c.User() == d.user && subtle.ConstantTimeCompare(password, []byte(d.password)) == 1 {
				return nil, nil //nolint:nilnil // nothing is restricted
			}
			return nil, errors.New("wrong user or password")
		},
	}
	config.AddHostKey(key)
	session, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	defer session.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { ssh.DiscardRequests(requests) })
	for offered := range channels {
		if offered.ChannelType() != "session" {
			_ = offered.Reject(ssh.UnknownChannelType, "only sessions")
			continue
		}
		channel, requests, err := offered.Accept()
		if err != nil {
			continue
		}
		wg.Go(func() { d.serveChannel(channel, requests) })
	}
}

// serveChannel waits for the request for a shell or a command, and serves it.
func (d *device) serveChannel(channel ssh.Channel, requests <-chan *ssh.Request) {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer channel.Close()
	for request := range requests {
		var run func() (status uint32)
		switch request.Type {
		case "shell":
			run = func() uint32 { d.newConsole(channel, channel, SSH).run(); return 0 }
		case "exec":
			var wanted struct{ Command string }
			if ssh.Unmarshal(request.Payload, &wanted) == nil {
				run = func() uint32 { return d.execute(channel, wanted.Command) }
			}
		}
		if request.WantReply {
			_ = request.Reply(run != nil || request.Type == "pty-req" || request.Type == "window-change" || request.Type == "env", nil)
		}
		if run == nil {
			continue
		}
		wg.Go(func() { ssh.DiscardRequests(requests) })
		status := run()
		_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
		return
	}
}

func (d *device) execute(out io.Writer, command string) (status uint32) {
	if d.faults[SSH] == Endless {
		pour(out, bytes.Repeat([]byte("this output has no end\n"), 100))
	}
	output, ok := d.answer(strings.Join(strings.Fields(command), " "))
	if !ok {
		_, _ = io.WriteString(out, "% Invalid input detected\n")
		return 1
	}
	for _, line := range output {
		_, _ = io.WriteString(out, line+"\n")
	}
	return 0
}
