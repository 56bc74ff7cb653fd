package broker

import (
	"errors"
	"net"
	"net/url"
	"strconv"
	"strings"

	"usm-satellite/jobs"
)

// DSN is where a broker is and who we are to it, read from an AMQP URI
// (https://www.rabbitmq.com/docs/uri-spec).
type DSN struct {
	TLS      bool // amqps
	Host     string
	Port     int
	Username string
	Password jobs.Secret
	VHost    string
}

// What can be wrong with a DSN. No error quotes it: it holds a password.
var (
	errDSNScheme   = errors.New("must begin with amqp:// or amqps://")
	errDSNUser     = errors.New("holds no user name; write amqp://user:password@host:5672/%2f")
	errDSNHost     = errors.New("holds no host; write amqp://user:password@host:5672/%2f")
	errDSNPort     = errors.New("holds a port that is not 1 to 65535")
	errDSNEncoding = errors.New("holds a percent sign that begins no %XX; write a percent sign of a password as %25")
	errDSNVHost    = errors.New("holds more than one / after the host; write a / in the name of the virtual host as %2f")
)

// ParseDSN reads an AMQP URI. It takes what net/url does not: passwords with
// question marks or hashes, names that are not ASCII. Its errors complete a
// sentence that begins with the name of the setting, and quote nothing.
func ParseDSN(text string) (DSN, error) {
	text = strings.TrimSpace(text)
	scheme, rest, _ := strings.Cut(text, "://")
	dsn := DSN{Port: 5672, VHost: "/"}
	switch strings.ToLower(scheme) {
	case "amqp":
	case "amqps":
		dsn.TLS, dsn.Port = true, 5671
	default:
		return DSN{}, errDSNScheme
	}
	at := strings.LastIndexByte(rest, '@')
	if at < 0 {
		return DSN{}, errDSNUser
	}
	if err := dsn.setUser(rest[:at]); err != nil {
		return DSN{}, err
	}
	host, path, hasPath := strings.Cut(rest[at+1:], "/")
	host, _, _ = strings.Cut(host, "?")
	if err := dsn.setHost(host); err != nil {
		return DSN{}, err
	}
	if hasPath {
		if err := dsn.setVHost(path); err != nil {
			return DSN{}, err
		}
	}
	return dsn, nil
}

func (d *DSN) setUser(userinfo string) error {
	name, password, _ := strings.Cut(userinfo, ":")
	username, err := url.PathUnescape(name)
	if err != nil {
		return errDSNEncoding
	}
	secret, err := url.PathUnescape(password)
	if err != nil {
		return errDSNEncoding
	}
	if username == "" {
		return errDSNUser
	}
	d.Username, d.Password = username, jobs.NewSecret(secret)
	return nil
}

func (d *DSN) setHost(hostPort string) error {
	host, port := hostPort, ""
	if h, p, err := net.SplitHostPort(hostPort); err == nil {
		host, port = h, p
	} else {
		host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	}
	if host == "" || strings.ContainsAny(host, " []") {
		return errDSNHost
	}
	d.Host = host
	if port == "" {
		return nil
	}
	number, err := strconv.Atoi(port)
	if err != nil || number < 1 || number > 65535 {
		return errDSNPort
	}
	d.Port = number
	return nil
}

func (d *DSN) setVHost(path string) error {
	path, _, _ = strings.Cut(path, "?")
	if strings.Contains(path, "/") {
		return errDSNVHost
	}
	vhost, err := url.PathUnescape(path)
	if err != nil {
		return errDSNEncoding
	}
	if vhost != "" {
		d.VHost = vhost
	}
	return nil
}

// Address returns host:port.
func (d DSN) Address() string { return net.JoinHostPort(d.Host, strconv.Itoa(d.Port)) }

// String names the broker without the password.
func (d DSN) String() string {
	scheme := "amqp"
	if d.TLS {
		scheme = "amqps"
	}
	return scheme + "://" + d.Address() + "/" + url.PathEscape(d.VHost)
}
