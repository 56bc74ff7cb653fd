package main

import (
	"errors"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caarlos0/env/v10"

	"usm-satellite/jobs"
)

// settings are the environment variables of a satellite. The tags are the
// source of the README's table: a test compares them.
type settings struct {
	DSN         string `env:"US_AMQP_DSN" secret:"true" help:"The broker: amqp://user:password@host:5672/%2f, or amqps:// (port 5671). Required."`
	SatelliteID string `env:"USM_POLLER_SATELLITE_ID" help:"The number of this satellite in the core: the queue is usm_poller-sat-ID. Unset: an ordinary poller on usm_poller."`
	FallbackDSN string `env:"USM_FALLBACK_DSN" secret:"true" help:"An amqps:// DSN that is dialled directly when the tunnel does not come up within 2 s. The tunnel is tried on and taken back once stable."`
	Plaintext   bool   `env:"USM_ALLOW_PLAINTEXT" help:"true: allow plain AMQP without a tunnel to a public address."`
	CAFile      string `env:"USM_AMQP_CA_FILE" help:"CA certificates (PEM) that the broker's certificate is checked with, in place of the public ones."`
	CertFile    string `env:"USM_AMQP_CERT_FILE" help:"Client certificate (PEM) for AMQPS."`
	KeyFile     string `env:"USM_AMQP_KEY_FILE" help:"Key of the client certificate (PEM)."`

	WGConfigFile string `env:"USM_WG_CONFIG_FILE" help:"A wg-quick file: the tunnel is built from it. Or set the USM_WG_ variables below. Several files separated by commas are key slots: each process on this host takes a free one."`
	WGPrivateKey string `env:"USM_WG_PRIVATE_KEY" secret:"true" help:"Private key of this satellite (base64)."`
	WGAddress    string `env:"USM_WG_ADDRESS" help:"Addresses inside the tunnel, as 10.77.0.7/32,fd77::7/128."`
	WGPeerKey    string `env:"USM_WG_PEER_PUBLIC_KEY" help:"Public key of the hub or WireGuard server."`
	WGPreshared  string `env:"USM_WG_PRESHARED_KEY" secret:"true" help:"Preshared key, where the peer has one."`
	WGEndpoint   string `env:"USM_WG_ENDPOINT" help:"host:port of the peer; several, separated by commas, are tried in order."`
	WGAllowedIPs string `env:"USM_WG_ALLOWED_IPS" help:"Networks behind the peer. Default: all (only the broker is dialled through the tunnel anyway)."`
	WGKeepalive  int    `env:"USM_WG_KEEPALIVE" help:"Seconds between keepalives. Default: 15."`
	WGMTU        int    `env:"USM_WG_MTU" help:"MTU inside the tunnel. Default: 1280, which passes PPPoE and LTE, and up to 1420 where the path was seen to carry it."`
	WGDNS        string `env:"USM_WG_DNS" help:"DNS servers inside the tunnel, where the broker's name is known only there."`
	WGBroker     string `env:"USM_WG_BROKER" help:"host:port of the broker inside the tunnel, where it is not the DSN's: TLS then still checks the DSN's name."`
	WGSlot       int    `env:"USM_WG_SLOT" help:"Which of several key slots to take (1 is the first), where replicas run on several hosts."`

	Concurrency     int           `env:"USM_CONCURRENCY" help:"Jobs in hand at a time. Default: 1000."`
	StateDir        string        `env:"USM_STATE_DIR" help:"Directory of the journal, the kept results and the learned host keys; on a volume, shared by the replicas of one host. Default: /var/lib/satellite."`
	DrainTimeout    time.Duration `env:"USM_DRAIN_TIMEOUT" help:"How long running jobs may go on after SIGTERM. Default: 50s; keep it below the container's stop_grace_period."`
	ResultsExchange string        `env:"USM_RESULTS_EXCHANGE" help:"Topic exchange for results (routing key sat.ID). Unset: reply_to over the default exchange."`
	ResultsQueue    string        `env:"USM_RESULTS_QUEUE" help:"Queue for results of jobs without reply_to. Default: erp.core."`
	DeclareQueue    bool          `env:"USM_DECLARE_QUEUE" help:"true: make the job queue where it is missing, as a durable quorum queue. For local work."`
	AllowTargets    string        `env:"USM_ALLOW_TARGETS" help:"Networks that jobs may reach, as 10.0.0.0/8,192.0.2.0/24. Default: all but loopback, link-local and multicast."`
	AllowPorts      string        `env:"USM_ALLOW_PORTS" help:"Ports that jobs may reach, as 22,23,161,8000-8100. Default: all."`
	AllowActions    string        `env:"USM_ALLOW_ACTIONS" help:"Actions that are allowed, as snmp.*,icmp.ping. Default: all."`
	AllowWrites     bool          `env:"USM_ALLOW_WRITES" envDefault:"true" help:"false: jobs that change equipment are refused. Default: true."`
	SecretsDir      string        `env:"USM_SECRETS_DIR" help:"Directory of JSON files, one for each credential that jobs name by ref."`
	LogLevel        string        `env:"USM_LOG_LEVEL" help:"debug, info, warn or error. Default: info."`
	LogFormat       string        `env:"USM_LOG_FORMAT" help:"json or text. Default: text on a terminal, else json."`
}

// Defaults that are not another package's.
const (
	defaultStateDir     = "/var/lib/satellite"
	defaultResultsQueue = "erp.core"
)

// readSettings reads the environment. The errors name the variable and what it
// must be, and quote no value.
func readSettings(env map[string]string) (settings, []string, error) {
	s := settings{AllowWrites: true, StateDir: defaultStateDir, ResultsQueue: defaultResultsQueue, Concurrency: jobs.DefaultConcurrency}
	warnings, err := readEnvironment(env, &s)
	if err != nil {
		return settings{}, nil, err
	}
	return s, warnings, s.check()
}

// readEnvironment fills a settings struct.
func readEnvironment[T any](environ map[string]string, into *T) (warnings []string, err error) {
	ours, secrets := names(*into)
	all, allSecrets := names(settings{}, hubSettings{})
	for _, name := range allSecrets {
		all = append(all, name+"_FILE")
	}
	warnings, err = checkNames(environ, all)
	if err != nil {
		return nil, err
	}
	environ, err = readSecretFiles(environ, secrets)
	if err != nil {
		return nil, err
	}
	given := make(map[string]string)
	for _, name := range ours {
		if value := strings.TrimSpace(environ[name]); value != "" {
			given[name] = value // set but empty is the same as unset: compose files do that
		}
	}
	if err := env.ParseWithOptions(into, env.Options{Environment: given}); err != nil {
		return nil, parseError(err, reflect.TypeOf(*into))
	}
	return warnings, nil
}

// parseError names the variable: the library's own text would show its value.
func parseError(err error, t reflect.Type) error {
	var all env.AggregateError
	if !errors.As(err, &all) {
		return usageError("the settings cannot be read")
	}
	for _, e := range all.Errors {
		var parse env.ParseError
		if !errors.As(e, &parse) {
			continue
		}
		field, _ := t.FieldByName(parse.Name)
		want := map[reflect.Kind]string{reflect.Bool: "true or false", reflect.Int: "a whole number"}[parse.Type.Kind()]
		if want == "" {
			want = "a duration, as 50s or 2m"
		}
		return usageError("%s must be %s", field.Tag.Get("env"), want)
	}
	return usageError("the settings cannot be read")
}

// check finds what is wrong with single settings; what they mean together is
// judged where they are used.
func (s settings) check() error {
	switch {
	case s.DSN == "":
		return usageError("US_AMQP_DSN is not set; it is the broker's address, as amqp://user:password@host:5672/%%2f")
	case s.SatelliteID != "" && !plainID(s.SatelliteID):
		return usageError("USM_POLLER_SATELLITE_ID must be letters, digits, - or _ (a number, as the core shows it)")
	case s.Concurrency < 1 || s.Concurrency > 60000:
		return usageError("USM_CONCURRENCY must be 1 to 60000")
	case s.DrainTimeout < 0:
		return usageError("USM_DRAIN_TIMEOUT must not be negative")
	case s.WGKeepalive < 0 || s.WGKeepalive > 65535:
		return usageError("USM_WG_KEEPALIVE must be 0 to 65535 seconds")
	case s.WGMTU != 0 && (s.WGMTU < 576 || s.WGMTU > 1440):
		return usageError("USM_WG_MTU must be 576 to 1440")
	case !slices.Contains([]string{"", "debug", "info", "warn", "error"}, s.LogLevel):
		return usageError("USM_LOG_LEVEL must be debug, info, warn or error")
	case !slices.Contains([]string{"", "json", "text"}, s.LogFormat):
		return usageError("USM_LOG_FORMAT must be json or text")
	case (s.CertFile == "") != (s.KeyFile == ""):
		return usageError("USM_AMQP_CERT_FILE and USM_AMQP_KEY_FILE belong together; set both or none")
	}
	return nil
}

// plainID: the id becomes part of a queue name and of a routing key.
func plainID(id string) bool {
	return len(id) <= 64 && strings.IndexFunc(id, func(r rune) bool {
		return !(r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '-' || r == '_')
	}) < 0
}

// queue is the job queue of this satellite.
func (s settings) queue() string {
	if s.SatelliteID == "" {
		return "usm_poller"
	}
	return "usm_poller-sat-" + s.SatelliteID
}

// policy reads the USM_ALLOW_ settings.
func (s settings) policy() (*jobs.Policy, error) {
	p := &jobs.Policy{NoWrites: !s.AllowWrites, Actions: list(s.AllowActions)}
	for _, text := range list(s.AllowTargets) {
		prefix, err := parsePrefix(text)
		if err != nil {
			return nil, usageError("USM_ALLOW_TARGETS must be networks, as 10.0.0.0/8,192.0.2.1")
		}
		p.Targets = append(p.Targets, prefix)
	}
	for _, text := range list(s.AllowPorts) {
		first, last, isRange := strings.Cut(text, "-")
		if !isRange {
			last = first
		}
		a, errA := strconv.ParseUint(first, 10, 16)
		b, errB := strconv.ParseUint(last, 10, 16)
		if errA != nil || errB != nil || a == 0 || a > b {
			return nil, usageError("USM_ALLOW_PORTS must be ports and ranges, as 22,161,8000-8100")
		}
		p.Ports = append(p.Ports, jobs.PortRange{First: uint16(a), Last: uint16(b)})
	}
	return p, nil
}

func parsePrefix(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(text)
	return prefix.Masked(), err
}

// list splits a setting at its commas.
func list(text string) []string {
	var items []string
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}

// splitHostPort checks a host:port setting.
func splitHostPort(name, value string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(value)
	if err != nil || host == "" {
		return "", 0, usageError("%s must be host:port", name)
	}
	port, err = strconv.Atoi(text)
	if err != nil || port < 1 || port > 65535 {
		return "", 0, usageError("%s must end in a port from 1 to 65535", name)
	}
	return host, port, nil
}
