package main

import (
	"context"
	"flag"
	"net"
	"strconv"
)

const enrollHelp = `Usage:
  satctl enroll --satellite ID --endpoint HOST:PORT [options]
  satctl enroll --satellite ID --direct HOST:PORT [options]

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
  Without a tunnel, by AMQPS, five processes:
    satctl enroll --satellite 7 --direct broker.example.net:5671 --replicas 5
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
  --direct HOST:PORT         no tunnel: the site reaches the broker by AMQPS

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
	out, format, image, tlsName, fallback, direct                                                    string
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
		"tls-name": {&o.tlsName, ""}, "fallback": {&o.fallback, ""}, "direct": {&o.direct, ""},
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
	for name, value := range map[string]string{"--fallback": o.fallback, "--direct": o.direct} {
		if value != "" && !isHostPort(value) {
			return usagef("%s must be host:port, as broker.example.net:5671", name)
		}
	}
	switch {
	case o.replicas < 1 || o.replicas > maxReplicas:
		return usagef("--replicas must be 1 to %d", maxReplicas)
	case o.format != "env" && o.format != "compose":
		return usagef("--format must be env or compose")
	case o.direct != "" && (o.endpoint != "" || o.publicKey != "" || o.peerOut != "" || o.tlsName != "" || o.fallback != ""):
		return usagef("--direct is without a tunnel; it does not go with the options of one")
	}
	if o.direct == "" {
		if err := o.checkTunnel(); err != nil {
			return err
		}
	}
	if o.management == "" && o.definitions == "" {
		return usagef("how is the broker user made? give --management (USM_MANAGEMENT_URL) or --definitions")
	}
	return nil
}

func isHostPort(text string) bool {
	host, port, err := net.SplitHostPort(text)
	return err == nil && host != "" && port != ""
}

func (o *enrollOptions) checkTunnel() error {
	switch {
	case !isHostPort(o.endpoint):
		return usagef("--endpoint must be host:port, as hub.example.net:51820: where the site reaches the hub's UDP port")
	case o.hubPort < 1 || o.hubPort > 65535:
		return usagef("--hub-port (USM_HUB_PORT) must be 1 to 65535")
	case o.publicKey != "" && o.replicas > 1:
		return usagef("--public-key is one identity; it does not go with --replicas")
	case o.publicKey != "" && !validPublicKey(o.publicKey):
		return usagef("--public-key must be 32 bytes in base64, as wg pubkey prints")
	case o.peerFormat != "wg-quick" && o.peerFormat != "routeros":
		return usagef("--peer-format must be wg-quick or routeros")
	case o.peersFile == "" && o.peerOut == "":
		return usagef("where does the hub's half go? give --peers-file (USM_HUB_PEERS_FILE) or --peer-out")
	case o.peerFormat == "routeros" && o.peerOut == "":
		return usagef("--peer-format routeros needs --peer-out")
	case o.peersFile == "" && o.address == "":
		return usagef("without --peers-file it is not known which addresses are free; give --address")
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
