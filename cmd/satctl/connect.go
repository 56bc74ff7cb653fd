package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"os"
	"strings"

	"usm-satellite/broker"
)

// connection is the options that every command shares that speaks AMQP.
type connection struct {
	dsn             string
	caFile          string
	certFile        string
	keyFile         string
	resultsExchange string
}

const connectionHelp = `Broker:
  --dsn DSN                  amqp://user:password@host:5672/%2f or amqps://…
                             Default: US_AMQP_DSN, or the content of the file
                             that US_AMQP_DSN_FILE names; both keep the password
                             out of the list of processes
  --results-exchange NAME    the satellites answer through this exchange
                             (default: USM_RESULTS_EXCHANGE)
  --ca-file FILE             trust this CA for amqps (default: USM_AMQP_CA_FILE)
  --cert-file, --key-file    client certificate for amqps (default:
                             USM_AMQP_CERT_FILE, USM_AMQP_KEY_FILE)
`

func (c *connection) register(flags *flag.FlagSet, getenv func(string) string) {
	flags.StringVar(&c.dsn, "dsn", "", "")
	flags.StringVar(&c.resultsExchange, "results-exchange", getenv("USM_RESULTS_EXCHANGE"), "")
	flags.StringVar(&c.caFile, "ca-file", getenv("USM_AMQP_CA_FILE"), "")
	flags.StringVar(&c.certFile, "cert-file", getenv("USM_AMQP_CERT_FILE"), "")
	flags.StringVar(&c.keyFile, "key-file", getenv("USM_AMQP_KEY_FILE"), "")
}

// open connects as a core.
func (c *connection) open(ctx context.Context, getenv func(string) string) (*broker.Core, error) {
	options, err := c.coreOptions(getenv)
	if err != nil {
		return nil, err
	}
	core, err := broker.OpenCore(ctx, options)
	if err != nil {
		return nil, brokerError(err)
	}
	return core, nil
}

func (c *connection) coreOptions(getenv func(string) string) (broker.CoreOptions, error) {
	dsn, err := c.parseDSN(getenv)
	if err != nil {
		return broker.CoreOptions{}, err
	}
	config, err := c.tls()
	return broker.CoreOptions{DSN: dsn, TLS: config, Name: "satctl", ResultsExchange: c.resultsExchange}, err
}

// parseDSN finds the DSN. No error of it quotes one.
func (c *connection) parseDSN(getenv func(string) string) (broker.DSN, error) {
	name, text := "--dsn", c.dsn
	if text == "" {
		name, text = "US_AMQP_DSN", getenv("US_AMQP_DSN")
	}
	if file := getenv("US_AMQP_DSN_FILE"); text == "" && file != "" {
		content, err := os.ReadFile(file)
		if err != nil {
			return broker.DSN{}, usagef("US_AMQP_DSN_FILE: %w", err)
		}
		name, text = "the content of US_AMQP_DSN_FILE", string(content)
	}
	if strings.TrimSpace(text) == "" {
		return broker.DSN{}, usagef("where is the broker? set US_AMQP_DSN, for example to amqp://user:password@host:5672/%%2f, or US_AMQP_DSN_FILE")
	}
	dsn, err := broker.ParseDSN(text)
	if err != nil {
		return broker.DSN{}, usagef("%s %w", name, err)
	}
	return dsn, nil
}

func (c *connection) tls() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.caFile != "" {
		pem, err := os.ReadFile(c.caFile)
		if err != nil {
			return nil, usagef("--ca-file: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, usagef("--ca-file: %s holds no certificate in PEM form", c.caFile)
		}
	}
	if (c.certFile == "") != (c.keyFile == "") {
		return nil, usagef("--cert-file and --key-file go together")
	}
	if c.certFile != "" {
		pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
		if err != nil {
			return nil, usagef("--cert-file, --key-file: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
