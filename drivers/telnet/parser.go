package telnet

// Bytes of RFC 854.
const (
	iac  = 255
	dont = 254
	do   = 253
	wont = 252
	will = 251
	sb   = 250
	se   = 240
)

// Options that are known: RFC 857, 858, 1091, 1073.
const (
	optEcho     = 1
	optSGA      = 3
	optTerminal = 24
	optWindow   = 31
)

// Of RFC 1091.
const (
	terminalIs   = 0
	terminalSend = 1
)

// state is where the parser stands between two bytes.
//
//	data ── IAC ──> command ── WILL/WONT/DO/DONT ──> option ──> data
//	                   ├────── SB ──> sub ── IAC ──> subCommand ── SE ──> data
//	                   └────── IAC (one data byte), NOP, GA, ... ──> data
//	data ── CR ──> carriage ── NUL ──> data (the NUL is dropped)
type state byte

const (
	stateData state = iota
	stateCarriage
	stateCommand
	stateOption
	stateSub
	stateSubCommand
)

// parser takes the protocol out of a stream. It does no I/O.
type parser struct {
	options Options
	state   state
	verb    byte      // of stateOption
	sub     []byte    // of stateSub: option and content so far
	peer    [256]bool // options that the peer has on
	us      [256]bool // options that we have on
	answers int
}

// feed appends the data in raw to dst (which may share raw's length, never
// its memory) and returns it with what must be sent back.
func (p *parser) feed(dst, raw []byte) (data, answer []byte, err error) {
	for _, b := range raw {
		switch p.state {
		case stateData, stateCarriage:
			dst = p.data(dst, b)
		case stateCommand:
			dst = p.command(dst, b)
		case stateOption:
			p.state = stateData
			answer, err = p.negotiate(answer, p.verb, b)
		case stateSub:
			err = p.suboption(b)
		case stateSubCommand:
			answer, err = p.subCommand(answer, b)
		}
		if err != nil {
			return dst, answer, err
		}
	}
	return dst, answer, nil
}

func (p *parser) data(dst []byte, b byte) []byte {
	carriage := p.state == stateCarriage
	p.state = stateData
	switch {
	case b == iac:
		p.state = stateCommand
		return dst
	case b == 0 && carriage:
		return dst
	case b == '\r':
		p.state = stateCarriage
	}
	return append(dst, b)
}

func (p *parser) command(dst []byte, b byte) []byte {
	p.state = stateData
	switch b {
	case iac:
		return append(dst, iac)
	case will, wont, do, dont:
		p.state, p.verb = stateOption, b
	case sb:
		p.state, p.sub = stateSub, p.sub[:0]
	}
	return dst // NOP, GA, data mark and the like mean nothing to us
}

func (p *parser) suboption(b byte) error {
	if b == iac {
		p.state = stateSubCommand
		return nil
	}
	if len(p.sub) >= maxSubnegotiation {
		return ErrSubnegotiation
	}
	p.sub = append(p.sub, b)
	return nil
}

func (p *parser) subCommand(answer []byte, b byte) ([]byte, error) {
	switch b {
	case se:
		p.state = stateData
		if len(p.sub) == 2 && p.sub[0] == optTerminal && p.sub[1] == terminalSend && p.us[optTerminal] {
			answer = append(answer, iac, sb, optTerminal, terminalIs)
			answer = append(answer, p.options.Terminal...)
			answer = append(answer, iac, se)
			return answer, p.spend()
		}
		return answer, nil
	case iac:
		p.state = stateSub
		if len(p.sub) >= maxSubnegotiation {
			return answer, ErrSubnegotiation
		}
		p.sub = append(p.sub, iac)
		return answer, nil
	default: // the suboption was never closed; take b as the command it is
		p.state = stateCommand
		p.command(nil, b)
		return answer, nil
	}
}

// negotiate answers a request to change an option. A request for what is so
// already gets no answer: that is what keeps two sides from a loop (RFC 854,
// RFC 1143).
func (p *parser) negotiate(answer []byte, verb, option byte) ([]byte, error) {
	side, yes, no := &p.peer, byte(do), byte(dont)
	known := option == optEcho || option == optSGA
	if verb == do || verb == dont {
		side, yes, no = &p.us, will, wont
		known = option == optSGA || option == optTerminal || option == optWindow
	}
	switch want := verb == will || verb == do; {
	case want == side[option]:
		return answer, nil
	case want && !known:
		return append(answer, iac, no, option), p.spend()
	case !want:
		side[option] = false
		return append(answer, iac, no, option), p.spend()
	default:
		side[option] = true
		answer = append(answer, iac, yes, option)
		if verb == do && option == optWindow {
			answer = p.window(answer)
		}
		return answer, p.spend()
	}
}

func (p *parser) window(answer []byte) []byte {
	answer = append(answer, iac, sb, optWindow)
	for _, n := range []int{p.options.Width, p.options.Height} {
		n = min(n, 0xffff)
		for _, b := range []byte{byte(n >> 8), byte(n & 0xff)} { //nolint:gosec // bounded above
			if b == iac {
				answer = append(answer, iac)
			}
			answer = append(answer, b)
		}
	}
	return append(answer, iac, se)
}

func (p *parser) spend() error {
	p.answers++
	if p.answers > maxAnswers {
		return ErrFlood
	}
	return nil
}
