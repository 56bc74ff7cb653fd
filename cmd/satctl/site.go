package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"

	"usm-satellite/jobs"
)

// site is all that a remote site is told, and the core's half of it.
type site struct {
	satellite  string
	slots      []slot // none: there is no tunnel
	replicas   int    // processes at the site
	hubKey     string // public
	hubAddress netip.Addr
	hubPort    int
	endpoint   string // host:port of the hub, from outside
	user       string
	password   jobs.Secret
	vhost      string
	exchange   string // of the results
	tlsName    string // the broker's name in its certificate: AMQPS inside the tunnel
	fallback   string // host:port of the broker by AMQPS, from outside
	direct     string // the same, where there is no tunnel
	image      string
}

// slot is one WireGuard identity. Processes at one site each take one.
type slot struct {
	keys      wgKeyPair
	preshared jobs.Secret
	address   netip.Addr
}

// variable is a line of the site's environment.
type variable struct{ name, value, comment string }

func (s *site) dsn(scheme, hostPort string) string {
	userinfo := url.UserPassword(s.user, s.password.Reveal())
	return scheme + "://" + userinfo.String() + "@" + hostPort + "/" + url.PathEscape(s.vhost)
}

func (s *site) hub() string { return net.JoinHostPort(s.hubAddress.String(), strconv.Itoa(s.hubPort)) }

// environment returns the settings of the satellite, secrets included.
func (s *site) environment() []variable {
	dsn := variable{"US_AMQP_DSN", s.dsn("amqp", s.hub()), "through the tunnel"}
	switch {
	case s.direct != "":
		dsn = variable{"US_AMQP_DSN", s.dsn("amqps", s.direct), ""}
	case s.tlsName != "":
		dsn.value = s.dsn("amqps", s.tlsName)
	}
	all := []variable{dsn, {"USM_POLLER_SATELLITE_ID", s.satellite, ""}, {"USM_RESULTS_EXCHANGE", s.exchange, ""}}
	if s.tlsName != "" {
		all = append(all, variable{"USM_WG_BROKER", s.hub(), ""})
	}
	if s.fallback != "" {
		all = append(all, variable{"USM_FALLBACK_DSN", s.dsn("amqps", s.fallback), "where UDP is blocked"})
	}
	return append(all, s.tunnel()...)
}

const siteDir = "/etc/satellite" // where the files of a site lie there

func (s *site) tunnel() []variable {
	if len(s.slots) == 0 {
		return nil
	}
	if len(s.slots) > 1 {
		paths := make([]string, len(s.slots))
		for i := range s.slots {
			paths[i] = siteDir + "/" + s.slotFile(i)
		}
		return []variable{{"USM_WG_CONFIG_FILE", strings.Join(paths, ","), "each process takes a free one"}}
	}
	first := s.slots[0]
	private := variable{"USM_WG_PRIVATE_KEY", first.keys.private.Reveal(), ""}
	if first.keys.private.IsZero() {
		private = variable{"USM_WG_PRIVATE_KEY_FILE", siteDir + "/wg.key", "the private key that belongs to " + first.keys.public}
	}
	return []variable{
		private,
		{"USM_WG_ADDRESS", first.address.String() + "/" + strconv.Itoa(first.address.BitLen()), ""},
		{"USM_WG_PEER_PUBLIC_KEY", s.hubKey, ""},
		{"USM_WG_PRESHARED_KEY", first.preshared.Reveal(), ""},
		{"USM_WG_ENDPOINT", s.endpoint, ""},
		{"USM_WG_ALLOWED_IPS", s.hubAddress.String() + "/" + strconv.Itoa(s.hubAddress.BitLen()), ""},
	}
}

// slotFile is the name of the file that holds the identity of slot i, where
// there are several.
func (s *site) slotFile(i int) string {
	return "satellite-" + s.satellite + ".wg" + strconv.Itoa(i+1) + ".conf"
}

// quickFile is the identity of slot i in the form of wg-quick.
func (s *site) quickFile(i int) string {
	sl := s.slots[i]
	return fmt.Sprintf("[Interface]\nPrivateKey = %s\nAddress = %s/%d\n\n[Peer]\nPublicKey = %s\nPresharedKey = %s\nEndpoint = %s\nAllowedIPs = %s/%d\nPersistentKeepalive = 15\n",
		sl.keys.private.Reveal(), sl.address, sl.address.BitLen(), s.hubKey, sl.preshared.Reveal(), s.endpoint, s.hubAddress, s.hubAddress.BitLen())
}

// envFile is for docker run --env-file and systemd's EnvironmentFile, which
// both take the value as it stands.
func (s *site) envFile() string {
	var out strings.Builder
	fmt.Fprintf(&out, "# Satellite %s. Holds secrets: keep it readable for its owner only.\n", s.satellite)
	for _, v := range s.environment() {
		if v.comment != "" {
			fmt.Fprintf(&out, "# %s\n", v.comment)
		}
		fmt.Fprintf(&out, "%s=%s\n", v.name, v.value)
	}
	return out.String()
}

// composeFile runs the satellite as deploy/site/compose.yaml does, with the
// settings inside.
func (s *site) composeFile() string {
	var out strings.Builder
	fmt.Fprintf(&out, "# Satellite %s. Holds secrets: keep it readable for its owner only.\n", s.satellite)
	fmt.Fprintf(&out, "services:\n  satellite:\n    image: %s\n    restart: unless-stopped\n    stop_grace_period: 60s\n", s.image)
	fmt.Fprint(&out, composeHardening)
	fmt.Fprint(&out, "    volumes:\n      - state:/var/lib/satellite\n")
	for _, name := range s.siteFiles() {
		fmt.Fprintf(&out, "      - ./%s:%s/%s:ro\n", name, siteDir, name)
	}
	fmt.Fprint(&out, "    environment:\n")
	for _, v := range s.environment() {
		fmt.Fprintf(&out, "      %s: %s\n", v.name, mustJSON(strings.ReplaceAll(v.value, "$", "$$")))
	}
	if s.replicas > 1 {
		fmt.Fprintf(&out, "    deploy:\n      replicas: %d\n", s.replicas)
	}
	fmt.Fprint(&out, "volumes:\n  state:\n")
	return out.String()
}

const composeHardening = `    sysctls:
      net.ipv4.ping_group_range: "0 2147483647" # ping without privileges
    read_only: true
    tmpfs: ["/run/satellite:mode=0700,uid=65532,gid=65532"]
    cap_drop: [ALL]
    security_opt: [no-new-privileges]
`

// siteFiles are the files that the site needs beside the settings.
func (s *site) siteFiles() []string {
	if len(s.slots) == 1 && s.slots[0].keys.private.IsZero() {
		return []string{"wg.key"}
	}
	if len(s.slots) < 2 {
		return nil
	}
	names := make([]string, len(s.slots))
	for i := range s.slots {
		names[i] = s.slotFile(i)
	}
	return names
}

// peerBlock returns the hub's side of slot i, in the form of wg-quick.
func (s *site) peerBlock(i int) string {
	sl := s.slots[i]
	return fmt.Sprintf("[Peer]\n# Name = %s\nPublicKey = %s\nPresharedKey = %s\nAllowedIPs = %s/%d\n",
		s.slotName(i), sl.keys.public, sl.preshared.Reveal(), sl.address, sl.address.BitLen())
}

func (s *site) slotName(i int) string {
	if len(s.slots) == 1 {
		return peerName(s.satellite)
	}
	return peerName(s.satellite) + "/" + strconv.Itoa(i+1)
}

func (s *site) peerBlocks() string {
	blocks := make([]string, len(s.slots))
	for i := range s.slots {
		blocks[i] = s.peerBlock(i)
	}
	return strings.Join(blocks, "\n")
}

// routerOS returns the peers as commands of RouterOS 7.
func (s *site) routerOS(device string) string {
	var out strings.Builder
	for i, sl := range s.slots {
		fmt.Fprintf(&out, "/interface/wireguard/peers/add interface=%s public-key=%q preshared-key=%q allowed-address=%s/%d comment=%q\n",
			device, sl.keys.public, sl.preshared.Reveal(), sl.address, sl.address.BitLen(), s.slotName(i))
	}
	return out.String()
}

// writeSecret makes a file that nobody else can read, and overwrites none.
func writeSecret(path, content string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, os.ErrExist) {
		return usagef("%s is there already; it may hold a key, so it is not overwritten: move it away or give another --out", path)
	}
	if err != nil {
		return usagef("%w", err)
	}
	_, err = file.WriteString(content)
	err = errors.Join(err, file.Sync(), file.Close())
	if err != nil {
		_ = os.Remove(path)
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
