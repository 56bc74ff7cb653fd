package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"usm-satellite/jobs"
	"usm-satellite/tunnel"
)

// hubSettings are the environment variables of a hub.
type hubSettings struct {
	Listen        string `env:"USM_HUB_LISTEN" help:"UDP port that satellites send to, as :51820. Default: :51820."`
	PrivateKey    string `env:"USM_HUB_PRIVATE_KEY" secret:"true" help:"Private key of the hub (base64). Required."`
	Address       string `env:"USM_HUB_ADDRESS" help:"Inner addresses of the hub. Default: 10.77.0.1."`
	Port          int    `env:"USM_HUB_PORT" help:"The one inner TCP port that is relayed. Default: 5672."`
	Broker        string `env:"USM_HUB_BROKER" help:"host:port of the broker; several, separated by commas: the first that answers is used. Required."`
	PeersFile     string `env:"USM_HUB_PEERS_FILE" help:"File of [Peer] blocks as in wg-quick files, one for each satellite; read again when it changes. Required."`
	MTU           int    `env:"USM_HUB_MTU" help:"MTU inside the tunnel. Default: 1420; each satellite keeps both ends to what its path carries."`
	MetricsListen string `env:"USM_METRICS_LISTEN" help:"host:port of the hub's metrics in Prometheus' form, as 127.0.0.1:9586. Off by default."`
	StateDir      string `env:"USM_STATE_DIR" help:"Where the hub's status socket is, if not /run/satellite."`
	LogLevel      string `env:"USM_LOG_LEVEL" help:"As for the satellite."`
	LogFormat     string `env:"USM_LOG_FORMAT" help:"As for the satellite."`
}

func (s hubSettings) config() (cfg tunnel.HubConfig, err error) {
	for name, value := range map[string]string{"USM_HUB_PRIVATE_KEY": s.PrivateKey, "USM_HUB_BROKER": s.Broker, "USM_HUB_PEERS_FILE": s.PeersFile} {
		if value == "" {
			return cfg, usageError("%s is not set; the hub needs it", name)
		}
	}
	if cfg.PrivateKey, err = tunnel.ParsePrivateKey(s.PrivateKey); err != nil {
		return cfg, usageError("USM_HUB_PRIVATE_KEY: %s", err)
	}
	if cfg.Addresses, err = prefixes("USM_HUB_ADDRESS", s.Address); err != nil {
		return cfg, err
	}
	_, text, err := net.SplitHostPort(s.Listen)
	port, portErr := strconv.ParseUint(text, 10, 16)
	if err != nil || portErr != nil || port == 0 {
		return cfg, usageError("USM_HUB_LISTEN must be a UDP port, as :51820")
	}
	cfg.ListenPort = uint16(port)
	if s.Port < 1 || s.Port > 65535 {
		return cfg, usageError("USM_HUB_PORT must be 1 to 65535")
	}
	cfg.Port = uint16(s.Port)
	for _, broker := range list(s.Broker) {
		if _, _, err := splitHostPort("USM_HUB_BROKER", broker); err != nil {
			return cfg, err
		}
		cfg.Brokers = append(cfg.Brokers, broker)
	}
	if _, err := os.Stat(s.PeersFile); err != nil {
		return cfg, usageError("USM_HUB_PEERS_FILE: %s cannot be read (%s); `satctl enroll` makes it", s.PeersFile, reason(err))
	}
	cfg.PeersFile, cfg.MTU = s.PeersFile, s.MTU
	return cfg, nil
}

func runHub(ctx context.Context, a app) error {
	if _, err := a.flags(); err != nil {
		return err
	}
	s := hubSettings{Listen: ":51820", Address: "10.77.0.1", Port: 5672, StateDir: defaultStateDir}
	warnings, err := readEnvironment(a.env, &s)
	if err != nil {
		return err
	}
	cfg, err := s.config()
	if err != nil {
		return err
	}
	log := newLogger(a.stderr, s.LogLevel, s.LogFormat)
	for _, w := range warnings {
		log.Warn(w) //nolint:sloglint // made of a setting's name
	}
	hub, err := tunnel.OpenHub(ctx, cfg, log)
	if err != nil {
		return usageError("the hub cannot start: %s", err)
	}
	defer func() { _ = hub.Close() }()
	stopStatus := serveSocket(ctx, "hub", s.StateDir, hubHandler(hub), func(err error) {
		log.WarnContext(ctx, "no status socket: `satellite peers` will find nothing", "cause", err.Error())
	})
	defer stopStatus()
	stopMetrics, err := serveMetrics(ctx, s.MetricsListen, hub)
	if err != nil {
		return err
	}
	defer stopMetrics()
	stopReload := reloadOnHangup(ctx, hub.Reload, func(err error) {
		log.WarnContext(ctx, "the peers file cannot be used; the peers stay as they are", "cause", err.Error())
	})
	defer stopReload()
	return hub.Serve(ctx)
}

// reloadOnHangup calls reload at each SIGHUP.
func reloadOnHangup(ctx context.Context, reload func(context.Context) error, failed func(error)) (stop func()) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { // ends with stop
		defer close(done)
		for {
			select {
			case <-hangups:
				if err := reload(ctx); err != nil {
					failed(err)
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		signal.Stop(hangups)
		cancel()
		<-done
	}
}

// hubStatus is what the hub says of itself.
type hubStatus struct {
	Version string      `json:"version"`
	Time    jobs.Time   `json:"time"`
	UDPPort uint16      `json:"udp_port"`
	Broker  string      `json:"broker,omitempty"` // that answered last
	Peers   []peerState `json:"peers"`

	Refused     uint64 `json:"refused"`                // handshakes that fit no peer: a wrong key at a satellite, most likely
	LastRefused string `json:"last_refused,omitempty"` // from where, and when
}

type peerState struct {
	Name        string     `json:"name"`
	PublicKey   string     `json:"public_key"`
	Addresses   []string   `json:"addresses"`
	Endpoint    string     `json:"endpoint,omitempty"`
	Handshake   *jobs.Time `json:"handshake,omitempty"`
	RxBytes     uint64     `json:"rx_bytes"`
	TxBytes     uint64     `json:"tx_bytes"`
	Connections int        `json:"connections"`
	Relayed     uint64     `json:"relayed"`
	Refused     uint64     `json:"refused"`
	KeyFight    bool       `json:"key_fight,omitempty"` // its key is in use at several places
}

func stateOf(hub *tunnel.Hub) hubStatus {
	h := hub.Status()
	out := hubStatus{Version: version, Time: jobs.Time{Time: time.Now()}, UDPPort: h.UDPPort, Broker: h.Broker, Peers: []peerState{}, Refused: h.Refused}
	if !h.LastRefused.At.IsZero() {
		out.LastRefused = h.LastRefused.From + " at " + h.LastRefused.At.UTC().Format(time.RFC3339)
	}
	for _, p := range h.Peers {
		state := peerState{
			Name: p.Name, PublicKey: p.PublicKey.String(), RxBytes: p.RxBytes, TxBytes: p.TxBytes,
			Connections: p.Connections, Relayed: p.Relayed, Refused: p.Refused, KeyFight: p.Moving,
		}
		for _, prefix := range p.AllowedIPs {
			state.Addresses = append(state.Addresses, prefix.String())
		}
		if p.Endpoint.IsValid() {
			state.Endpoint = p.Endpoint.String()
		}
		if !p.Handshake.IsZero() {
			state.Handshake = &jobs.Time{Time: p.Handshake}
		}
		out.Peers = append(out.Peers, state)
	}
	return out
}

func hubHandler(hub *tunnel.Hub) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(stateOf(hub))
	})
	return mux
}

// serveMetrics answers GET /metrics with figures for each peer, in the text
// form of Prometheus.
func serveMetrics(ctx context.Context, address string, hub *tunnel.Hub) (stop func(), err error) {
	if address == "" {
		return func() {}, nil
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, usageError("USM_METRICS_LISTEN: the address cannot be listened on; it must be host:port of this machine, and free")
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		_, _ = w.Write([]byte(stateOf(hub).metrics()))
	})
	return serveHTTP(ln, mux), nil
}

func (h hubStatus) metrics() string {
	var b strings.Builder
	metric := func(name, kind, help string, value func(peerState) float64) {
		_, _ = fmt.Fprintf(&b, "# HELP satellite_hub_%s %s\n# TYPE satellite_hub_%s %s\n", name, help, name, kind)
		for _, p := range h.Peers {
			_, _ = fmt.Fprintf(&b, "satellite_hub_%s{peer=%q,public_key=%q} %g\n", name, p.Name, p.PublicKey, value(p))
		}
	}
	metric("peer_handshake_age_seconds", "gauge", "Since the last handshake; -1: none yet.", func(p peerState) float64 {
		if p.Handshake == nil {
			return -1
		}
		return h.Time.Sub(p.Handshake.Time).Seconds()
	})
	metric("peer_receive_bytes_total", "counter", "From the satellite.", func(p peerState) float64 { return float64(p.RxBytes) })
	metric("peer_transmit_bytes_total", "counter", "To the satellite.", func(p peerState) float64 { return float64(p.TxBytes) })
	metric("peer_connections", "gauge", "Connections to the broker that are open.", func(p peerState) float64 { return float64(p.Connections) })
	metric("peer_connections_total", "counter", "Connections to the broker since the start.", func(p peerState) float64 { return float64(p.Relayed) })
	metric("peer_refused_total", "counter", "Connections over the limit, or without a broker.", func(p peerState) float64 { return float64(p.Refused) })
	metric("peer_key_fight", "gauge", "1: the key is in use at several places.", func(p peerState) float64 {
		if p.KeyFight {
			return 1
		}
		return 0
	})
	return b.String()
}

func runPeers(ctx context.Context, a app) error {
	given, err := a.flags("--json")
	if err != nil {
		return err
	}
	hubs, err := ask[hubStatus](ctx, "hub", a.stateDir(), "/status")
	if err != nil {
		return &exitError{exitFailed, "no running hub was found on this machine (for this user); is it started?"}
	}
	for _, h := range hubs {
		if given["--json"] {
			if err := json.NewEncoder(a.stdout).Encode(h); err != nil {
				return err
			}
			continue
		}
		h.print(a)
	}
	return nil
}

func (h hubStatus) print(a app) {
	w := tabwriter.NewWriter(a.stdout, 0, 4, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "PEER\tADDRESSES\tENDPOINT\tHANDSHAKE\tRECEIVED\tSENT\tCONNECTIONS\tREFUSED\t")
	for _, p := range h.Peers {
		age := "never"
		if p.Handshake != nil {
			age = h.Time.Sub(p.Handshake.Time).Round(time.Second).String() + " ago"
		}
		note := ""
		if p.KeyFight {
			note = "its key is in use at several places"
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%s\n", orElse(p.Name, p.PublicKey), strings.Join(p.Addresses, ","),
			orElse(p.Endpoint, "-"), age, p.RxBytes, p.TxBytes, p.Connections, p.Refused, note)
	}
	_ = w.Flush()
	if h.Refused > 0 {
		_, _ = fmt.Fprintf(a.stdout, "%d handshakes fitted no peer (a wrong key, or a stranger); the last from %s\n", h.Refused, h.LastRefused)
	}
}
