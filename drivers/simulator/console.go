package simulator

import (
	"bufio"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
)

// maxLine bounds what may be typed, bytes.
const maxLine = 16 << 10

var errGone = errors.New("the peer ended the session")

// console is one session of the command line.
type console struct {
	*device

	in      *bufio.Reader
	out     io.Writer
	service Service
	pageLen int
	crSeen  bool // an LF or NUL now belongs to the line before
	mode    string
}

func (d *device) newConsole(in io.Reader, out io.Writer, service Service) *console {
	return &console{device: d, in: bufio.NewReader(in), out: out, service: service, pageLen: d.pager, mode: ">"}
}

// run serves prompt after prompt until the peer leaves.
func (c *console) run() {
	for {
		line, err := c.ask(c.hostname+c.mode, true)
		if err != nil {
			return
		}
		c.log.Info("command", "service", string(c.service), "command", line)
		if c.command(strings.Join(strings.Fields(line), " ")) != nil {
			return
		}
	}
}

// login asks for name and password as switches do.
func (c *console) login() error {
	if err := c.print("\r\nUser Access Verification\r\n\r\n"); err != nil {
		return err
	}
	for range 3 {
		user, err := c.ask("Username: ", true)
		if err != nil {
			return err
		}
		password, err := c.ask("Password: ", false)
		if err != nil {
			return err
		}
		if user == c.user && password == c.password {
			return nil
		}
		if err := c.print("% Login invalid\r\n\r\n"); err != nil {
			return err
		}
	}
	return errGone
}

func (c *console) print(text string) error {
	_, err := io.WriteString(c.out, text)
	return err
}

// key reads one byte that was typed.
func (c *console) key() (byte, error) {
	for {
		b, err := c.in.ReadByte()
		if err != nil {
			return 0, err
		}
		second := c.crSeen && (b == '\n' || b == 0)
		c.crSeen = b == '\r'
		if !second {
			return b, nil
		}
	}
}

// ask reads a line, and shows it as it is typed.
func (c *console) ask(prompt string, shown bool) (string, error) {
	if err := c.print(prompt); err != nil {
		return "", err
	}
	var line []byte
	for len(line) < maxLine {
		b, err := c.key()
		switch {
		case err != nil:
			return "", err
		case b == '\r', b == '\n':
			return string(line), c.print("\r\n")
		case b == 4 && len(line) == 0: // Ctrl-D
			return "", errGone
		case b == 8, b == 127:
			if len(line) > 0 {
				line = line[:len(line)-1]
				err = c.print("\b \b")
			}
		case b >= ' ':
			line = append(line, b)
			if shown {
				_, err = c.out.Write([]byte{b})
			}
		}
		if err != nil {
			return "", err
		}
	}
	return "", errGone
}

// command does what was typed. An error ends the session.
func (c *console) command(line string) error {
	if strings.HasPrefix(c.mode, "(") {
		return c.configure(line)
	}
	length, isLength := strings.CutPrefix(line, "terminal length ")
	switch {
	case line == "":
		return nil
	case line == "exit", line == "quit", line == "logout":
		return errGone
	case line == "enable":
		return c.privileges()
	case line == "disable":
		c.mode = ">"
		return nil
	case line == "configure terminal" && c.mode == "#":
		c.mode = "(config)#"
		return nil
	case line == "copy running-config startup-config" && c.mode == "#":
		return c.print("[OK]\r\n")
	case isLength:
		if n, err := strconv.Atoi(length); err == nil && n >= 0 {
			c.pageLen = n
			return nil
		}
	case strings.HasPrefix(line, "terminal "):
		return nil
	}
	if c.faults[c.service] == Endless {
		pour(c.out, []byte(strings.Repeat("this output has no end\r\n", 100)))
		return errGone
	}
	output, ok := c.answer(line)
	if !ok {
		return c.print("% Invalid input detected\r\n")
	}
	return c.page(output)
}

// answer finds the output of a command, in full.
func (d *device) answer(line string) ([]string, bool) {
	output, ok := d.answers[line]
	if ok && line == "show running-config" {
		d.mu.Lock()
		defer d.mu.Unlock()
		output = append(slices.Clip(output), d.configured...)
	}
	return output, ok
}

func (c *console) privileges() error {
	if c.enable != "" {
		password, err := c.ask("Password: ", false)
		if err != nil {
			return err
		}
		if password != c.enable {
			return c.print("% Access denied\r\n")
		}
	}
	c.mode = "#"
	return nil
}

func (c *console) configure(line string) error {
	switch line {
	case "":
	case "end", "exit":
		c.mode = "#"
	default:
		const most = 10000
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.configured) < most {
			c.configured = append(c.configured, line)
		}
	}
	return nil
}

// page shows lines, and waits for a key behind each screenful.
func (c *console) page(lines []string) error {
	const more = " --More-- "
	left := c.pageLen
	for _, line := range lines {
		if c.pageLen > 0 && left == 0 {
			if err := c.print(more); err != nil {
				return err
			}
			key, err := c.key()
			if err != nil {
				return err
			}
			back := strings.Repeat("\b", len(more))
			if err := c.print(back + strings.Repeat(" ", len(more)) + back); err != nil {
				return err
			}
			switch key {
			case 'q', 'Q', 3:
				return nil
			case '\r', '\n':
				left = 1
			default:
				left = c.pageLen
			}
		}
		if err := c.print(line + "\r\n"); err != nil {
			return err
		}
		left--
	}
	return nil
}
