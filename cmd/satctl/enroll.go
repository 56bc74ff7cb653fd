package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"usm-satellite/broker"
	"usm-satellite/jobs"
)

const enrollHelp = `Usage:
  satctl enroll --satellite ID --endpoint HOST:PORT [options]

Makes all that a new satellite needs: a WireGuard identity with an address of
its own, the hub's half of it, a broker user with the least rights, the queue
and the exchange; and writes the settings of the site to one file that only
its owner can read. Nothing secret is printed.

Examples:
  On the hub's host, with its environment (USM_HUB_PRIVATE_KEY_FILE,
  USM_HUB_PEERS_FILE) and a broker with the management plugin:
    satctl enroll --satellite 7 --endpoint hub.example.net:51820 \
        --management http://127.0.0.1:15672
    scp satellite-7.env site7:/etc/satellite/satellite.env
  The site made its key itself (satctl keygen wg.key), and only told the public half:
    satctl enroll --satellite 7 --endpoint hub.example.net:51820 \
        --public-key 'kvWkOPbTPzXBDVDSdNjmXLuiTtIaxyNyIfSqUkMuCyc='
  An own WireGuard server instead of the hub:
    satctl enroll --satellite 7 --endpoint vpn.example.net:13231 \
        --hub-public-key '…' --hub-address 10.77.0.1 --address 10.77.0.2 \
        --peer-format routeros --peer-out satellite-7.rsc
  Without the management API:
    satctl enroll --satellite 7 --endpoint hub.example.net:51820 \
        --definitions sat-7.json
    rabbitmqctl import_definitions sat-7.json

The tunnel:
  --endpoint HOST:PORT       where the hub's UDP port is reached from the site
  --hub-public-key KEY       (default: of USM_HUB_PRIVATE_KEY or
                             USM_HUB_PRIVATE_KEY_FILE)
  --hub-address ADDRESS      inner address (default: USM_HUB_ADDRESS, 10.77.0.1)
  --hub-port PORT            inner port of the broker (default: USM_HUB_PORT, 5672)
  --peers-file FILE          the hub's list, to which the peer is added
                             (default: USM_HUB_PEERS_FILE)
  --peer-out FILE            write the peer here instead, for another server
  --peer-format FORMAT       wg-quick (also the hub's), or routeros
  --routeros-interface NAME  (default wireguard1)
  --network PREFIX           the inner network (default 10.77.0.0/16)
  --address ADDRESS          take this one (default: the first that is free)
  --public-key KEY           the private key stays at the site
  --replicas N               N identities, for N processes at the site

The broker:
  --management URL           its management API (default: USM_MANAGEMENT_URL);
                             who logs in: of the URL, or of the DSN
  --definitions FILE         write a file for rabbitmqctl import_definitions
  --vhost NAME               (default: the DSN's, or /)
  --user NAME                (default: sat-ID)
  --results-exchange NAME    made if it is not there (default:
                             USM_RESULTS_EXCHANGE, or usm_poller.results)
  --results-queue NAME       the core's queue, bound to it (default erp.core;
                             empty: the core binds its own)
  --dsn, --ca-file           as in satctl submit

The site:
  --out FILE                 (default satellite-ID.env, or satellite-ID.yaml)
  --format FORMAT            env or compose
  --image NAME               of the container (default usm-satellite:latest)
  --tls-name NAME            AMQPS inside the tunnel; the broker's certificate
                             has this name
  --fallback HOST:PORT       the broker by AMQPS, for sites where UDP is blocked
`

const (
	defaultResultsExchange = "usm_poller.results"
	statusExchange         = "usm_poller.status"
	maxReplicas            = 64
)

type enrollOptions struct {
	connection
	satellite, endpoint, hubPublicKey, hubAddress, peersFile, peerOut, peerFormat, routerosInterface string
	network, address, publicKey, management, definitions, vhost, user, resultsQueue                  string
	out, format, image, tlsName, fallback                                                            string
	hubPort, replicas                                                                                int
}

func (o *enrollOptions) register(flags *flag.FlagSet, getenv func(string) string) {
	o.connection.register(flags, getenv)
	if o.resultsExchange == "" {
		o.resultsExchange = defaultResultsExchange
	}
	orDefault := func(name, fallback string) string {
		if value := getenv(name); value != "" {
			return value
		}
		return fallback
	}
	port, err := strconv.Atoi(orDefault("USM_HUB_PORT", "5672"))
	if err != nil {
		port = -1 // refused by check
	}
	for name, option := range map[string]struct {
		value    *string
		fallback string
	}{
		"satellite": {&o.satellite, ""}, "endpoint": {&o.endpoint, ""}, "hub-public-key": {&o.hubPublicKey, ""},
		"hub-address": {&o.hubAddress, orDefault("USM_HUB_ADDRESS", "10.77.0.1")},
		"peers-file":  {&o.peersFile, getenv("USM_HUB_PEERS_FILE")},
		"peer-out":    {&o.peerOut, ""}, "peer-format": {&o.peerFormat, "wg-quick"},
		"routeros-interface": {&o.routerosInterface, "wireguard1"},
		"network":            {&o.network, "10.77.0.0/16"}, "address": {&o.address, ""}, "public-key": {&o.publicKey, ""},
		"management": {&o.management, getenv("USM_MANAGEMENT_URL")}, "definitions": {&o.definitions, ""},
		"vhost": {&o.vhost, ""}, "user": {&o.user, ""}, "results-queue": {&o.resultsQueue, "erp.core"},
		"out": {&o.out, ""}, "format": {&o.format, "env"}, "image": {&o.image, "usm-satellite:latest"},
		"tls-name": {&o.tlsName, ""}, "fallback": {&o.fallback, ""},
	} {
		flags.StringVar(option.value, name, option.fallback, "")
	}
	flags.IntVar(&o.hubPort, "hub-port", port, "")
	flags.IntVar(&o.replicas, "replicas", 1, "")
}

func (o *enrollOptions) check() error {
	if err := checkSatelliteID(o.satellite); err != nil {
		return err
	}
	if _, port, err := net.SplitHostPort(o.endpoint); err != nil || port == "" {
		return usagef("--endpoint must be host:port, as hub.example.net:51820: where the site reaches the hub's UDP port")
	}
	if _, port, err := net.SplitHostPort(o.fallback); o.fallback != "" && (err != nil || port == "") {
		return usagef("--fallback must be host:port, as broker.example.net:5671")
	}
	switch {
	case o.hubPort < 1 || o.hubPort > 65535:
		return usagef("--hub-port (USM_HUB_PORT) must be 1 to 65535")
	case o.replicas < 1 || o.replicas > maxReplicas:
		return usagef("--replicas must be 1 to %d", maxReplicas)
	case o.publicKey != "" && o.replicas > 1:
		return usagef("--public-key is one identity; it does not go with --replicas")
	case o.publicKey != "" && !validPublicKey(o.publicKey):
		return usagef("--public-key must be 32 bytes in base64, as wg pubkey prints")
	case o.format != "env" && o.format != "compose":
		return usagef("--format must be env or compose")
	case o.peerFormat != "wg-quick" && o.peerFormat != "routeros":
		return usagef("--peer-format must be wg-quick or routeros")
	case o.peersFile == "" && o.peerOut == "":
		return usagef("where does the hub's half go? give --peers-file (USM_HUB_PEERS_FILE) or --peer-out")
	case o.peerFormat == "routeros" && o.peerOut == "":
		return usagef("--peer-format routeros needs --peer-out")
	case o.peersFile == "" && o.address == "":
		return usagef("without --peers-file it is not known which addresses are free; give --address")
	case o.management == "" && o.definitions == "":
		return usagef("how is the broker user made? give --management (USM_MANAGEMENT_URL) or --definitions")
	}
	return nil
}

func enroll(ctx context.Context, args []string, sys system) error {
	o := &enrollOptions{}
	flags := newFlags("enroll")
	o.register(flags, sys.Getenv)
	if err := parse(flags, args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return usagef("does not know what to do with %q", flags.Arg(0))
	}
	if err := o.check(); err != nil {
		return err
	}
	e, err := newEnrolment(o, sys.Getenv)
	if err != nil {
		return err
	}
	if err := e.carryOut(ctx); err != nil {
		e.undo()
		return err
	}
	e.report(sys.Stdout)
	return nil
}

// enrolment is one run of enroll: what is made, and how it is unmade if a
// later step fails.
type enrolment struct {
	options *enrollOptions
	site    *site
	api     *broker.Management // nil: definitions are written
	out     string
	undoes  []func()
}

func newEnrolment(o *enrollOptions, getenv func(string) string) (*enrolment, error) {
	hubAddress, err := netip.ParseAddr(o.hubAddress)
	if err != nil {
		return nil, usagef("--hub-address (USM_HUB_ADDRESS) must be an address, as 10.77.0.1")
	}
	hubKey, err := o.hubKey(getenv)
	if err != nil {
		return nil, err
	}
	e := &enrolment{options: o, out: o.out, site: &site{
		satellite: o.satellite, hubKey: hubKey, hubAddress: hubAddress, hubPort: o.hubPort, endpoint: o.endpoint,
		user: o.user, password: newPassword(), vhost: o.vhost, exchange: o.resultsExchange,
		tlsName: o.tlsName, fallback: o.fallback, image: o.image,
	}}
	if e.site.user == "" {
		e.site.user = peerName(o.satellite)
	}
	if e.out == "" {
		e.out = "satellite-" + o.satellite + map[string]string{"env": ".env", "compose": ".yaml"}[o.format]
	}
	if e.api, e.site.vhost, err = o.openManagement(getenv, o.management, o.vhost); err != nil {
		return nil, err
	}
	return e, e.makeSlots()
}

func (o *enrollOptions) hubKey(getenv func(string) string) (string, error) {
	if o.hubPublicKey != "" {
		if !validPublicKey(o.hubPublicKey) {
			return "", usagef("--hub-public-key must be 32 bytes in base64, as wg pubkey prints")
		}
		return o.hubPublicKey, nil
	}
	text := getenv("USM_HUB_PRIVATE_KEY")
	if file := getenv("USM_HUB_PRIVATE_KEY_FILE"); text == "" && file != "" {
		content, err := os.ReadFile(file)
		if err != nil {
			return "", usagef("USM_HUB_PRIVATE_KEY_FILE: %w", err)
		}
		text = string(content)
	}
	if text == "" {
		return "", usagef("--hub-public-key is missing (or USM_HUB_PRIVATE_KEY_FILE, to take it from)")
	}
	key, err := publicOf(jobs.NewSecret(strings.TrimSpace(text)))
	if err != nil {
		return "", usagef("USM_HUB_PRIVATE_KEY %w", err)
	}
	return key, nil
}

// openManagement returns the client of the management API, nil where none is
// wanted, and the virtual host. The DSN, if there is one, says who logs in
// and where.
func (c *connection) openManagement(getenv func(string) string, address, vhost string) (*broker.Management, string, error) {
	dsn := broker.DSN{Username: "guest", Password: jobs.NewSecret("guest"), VHost: "/"}
	if c.dsn != "" || getenv("US_AMQP_DSN") != "" || getenv("US_AMQP_DSN_FILE") != "" {
		var err error
		if dsn, err = c.parseDSN(getenv); err != nil {
			return nil, "", err
		}
	}
	if vhost == "" {
		vhost = dsn.VHost
	}
	if address == "" {
		return nil, vhost, nil
	}
	config, err := c.tls()
	if err != nil {
		return nil, "", err
	}
	api, err := broker.NewManagement(address, dsn.Username, dsn.Password, config)
	if err != nil {
		return nil, "", usagef("--management (USM_MANAGEMENT_URL) %w", err)
	}
	return api, vhost, nil
}

// makeSlots makes the identities; their addresses are given in carryOut,
// under the lock of the peers file.
func (e *enrolment) makeSlots() error {
	for range e.options.replicas {
		keys := wgKeyPair{public: e.options.publicKey}
		if keys.public == "" {
			var err error
			if keys, err = newKeyPair(); err != nil {
				return err
			}
		}
		e.site.slots = append(e.site.slots, slot{keys: keys, preshared: newPresharedKey()})
	}
	return nil
}

// carryOut does the steps that leave something behind: what can be refused
// comes first, and the peer, which opens the door, last.
func (e *enrolment) carryOut(ctx context.Context) error {
	if e.options.peersFile == "" {
		if err := e.assign(&peersFile{}); err != nil {
			return err
		}
		return e.write(ctx)
	}
	return changePeers(e.options.peersFile, func(peers *peersFile) error {
		if len(peers.of(e.options.satellite)) > 0 {
			return usagef("satellite %s is in %s already; satctl revoke --satellite %s first", e.options.satellite, e.options.peersFile, e.options.satellite)
		}
		if err := e.assign(peers); err != nil {
			return err
		}
		if err := e.write(ctx); err != nil {
			return err
		}
		return peers.add(e.site.peerBlocks())
	})
}

func (e *enrolment) assign(peers *peersFile) error {
	network, err := netip.ParsePrefix(e.options.network)
	if err != nil {
		return usagef("--network must be a prefix, as 10.77.0.0/16")
	}
	if peers.hasKey(e.options.publicKey) && e.options.publicKey != "" {
		return usagef("--public-key is in %s already: every satellite needs its own", e.options.peersFile)
	}
	if e.options.address != "" {
		return e.assignGiven(peers)
	}
	free, err := freeAddresses(network, e.site.hubAddress, peers, len(e.site.slots))
	if err != nil {
		return usagef("%w", err)
	}
	for i := range e.site.slots {
		e.site.slots[i].address = free[i]
	}
	return nil
}

func (e *enrolment) assignGiven(peers *peersFile) error {
	addr, err := netip.ParseAddr(e.options.address)
	if err != nil {
		return usagef("--address must be an address, as 10.77.0.2")
	}
	for i := range e.site.slots {
		if addr == e.site.hubAddress || peers.uses(addr) {
			return usagef("--address: %s is taken", addr)
		}
		e.site.slots[i].address = addr
		addr = addr.Next()
	}
	return nil
}

func (e *enrolment) write(ctx context.Context) error {
	content := e.site.envFile()
	if e.options.format == "compose" {
		content = e.site.composeFile()
	}
	if err := e.file(e.out, content); err != nil {
		return err
	}
	for i := range e.site.slots {
		if len(e.site.slots) == 1 {
			break
		}
		if err := e.file(filepath.Join(filepath.Dir(e.out), e.site.slotFile(i)), e.site.quickFile(i)); err != nil {
			return err
		}
	}
	if err := e.writePeer(); err != nil {
		return err
	}
	grant := broker.Grant{
		VHost: e.site.vhost, User: e.site.user, Password: e.site.password, Queue: "usm_poller-sat-" + e.site.satellite,
		ResultsExchange: e.site.exchange, StatusExchange: statusExchange, ResultsQueue: e.options.resultsQueue,
		RoutingKey: "sat." + e.site.satellite,
	}
	if e.options.definitions != "" {
		definitions, err := grant.Definitions()
		if err != nil {
			return err
		}
		if err := e.file(e.options.definitions, string(definitions)); err != nil {
			return err
		}
	}
	if e.api == nil {
		return nil
	}
	return e.apply(ctx, grant)
}

// apply makes the broker user. One that is there already may be in use: it
// does not get another password behind its back.
func (e *enrolment) apply(ctx context.Context, grant broker.Grant) error {
	exists, err := e.api.HasUser(ctx, grant.User)
	if err != nil {
		return brokerError(err)
	}
	if exists {
		return usagef("the broker user %s is there already; satctl revoke --satellite %s first, or give another --user", grant.User, e.site.satellite)
	}
	e.undoes = append(e.undoes, func() { _, _, _ = e.api.Withdraw(context.WithoutCancel(ctx), grant.User) })
	if err := e.api.Apply(ctx, grant); err != nil {
		return brokerError(err)
	}
	return nil
}

func (e *enrolment) writePeer() error {
	if e.options.peerOut == "" {
		return nil
	}
	content := e.site.peerBlocks()
	if e.options.peerFormat == "routeros" {
		content = e.site.routerOS(e.options.routerosInterface)
	}
	return e.file(e.options.peerOut, content)
}

func (e *enrolment) file(path, content string) error {
	if err := writeSecret(path, content); err != nil {
		return err
	}
	e.undoes = append(e.undoes, func() { _ = os.Remove(path) })
	return nil
}

// undo takes back what was made before a later step failed.
func (e *enrolment) undo() {
	for _, undo := range slices.Backward(e.undoes) {
		undo()
	}
}

func (e *enrolment) report(out io.Writer) {
	o := e.options
	fmt.Fprintf(out, "satellite %s is enrolled\n", o.satellite)
	for i, s := range e.site.slots {
		fmt.Fprintf(out, "  %s  %s  public key %s\n", e.site.slotName(i), s.address, s.keys.public)
	}
	fmt.Fprintf(out, "  broker user %s: consumes usm_poller-sat-%s, publishes to %s as sat.%s, nothing else\n", e.site.user, o.satellite, e.site.exchange, o.satellite)
	fmt.Fprintln(out, "next:")
	if o.definitions != "" && e.api == nil {
		fmt.Fprintf(out, "  rabbitmqctl import_definitions %s\n", o.definitions)
	}
	if o.peerOut != "" {
		fmt.Fprintf(out, "  add %s to the WireGuard server\n", o.peerOut)
	}
	fmt.Fprintf(out, "  bring %s to the site, over a channel that you trust, and start the satellite with it\n", e.out)
	for _, name := range e.site.siteFiles() {
		fmt.Fprintf(out, "  put %s at %s/%s there, readable for the satellite's user (65532 in the container)\n", name, siteDir, name)
	}
}
