package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"usm-satellite/broker"
	"usm-satellite/jobs"
)

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
	e := &enrolment{options: o, out: o.out, site: &site{
		satellite: o.satellite, replicas: o.replicas, hubPort: o.hubPort, endpoint: o.endpoint,
		user: o.user, password: newPassword(), vhost: o.vhost, exchange: o.resultsExchange,
		tlsName: o.tlsName, fallback: o.fallback, direct: o.direct, image: o.image,
	}}
	if e.site.user == "" {
		e.site.user = peerName(o.satellite)
	}
	if e.out == "" {
		e.out = "satellite-" + o.satellite + map[string]string{"env": ".env", "compose": ".yaml"}[o.format]
	}
	var err error
	if e.api, e.site.vhost, err = o.openManagement(getenv, o.management, o.vhost); err != nil {
		return nil, err
	}
	if o.direct != "" {
		return e, nil
	}
	if e.site.hubAddress, err = o.innerAddress(); err != nil {
		return nil, err
	}
	if e.site.hubKey, err = o.hubKey(getenv); err != nil {
		return nil, err
	}
	return e, e.makeSlots()
}

// innerAddress returns the hub's address in the tunnel; the hub may have one
// of each family, and the first is taken.
func (o *enrollOptions) innerAddress() (netip.Addr, error) {
	first, _, _ := strings.Cut(o.hubAddress, ",")
	first, _, _ = strings.Cut(strings.TrimSpace(first), "/")
	addr, err := netip.ParseAddr(first)
	if err != nil {
		return netip.Addr{}, usagef("--hub-address (USM_HUB_ADDRESS) must be an address, as 10.77.0.1")
	}
	return addr, nil
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
	if e.options.direct != "" {
		return e.write(ctx)
	}
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
		place := "at " + siteDir + "/" + name
		if o.format == "compose" {
			place = "beside it"
		}
		fmt.Fprintf(out, "  put %s %s there, readable for the satellite's user (65532 in the container)\n", name, place)
	}
}
