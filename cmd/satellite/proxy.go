package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/net/http/httpproxy"
	"golang.org/x/net/proxy"

	"usm-satellite/broker"
)

// proxied returns how AMQPS is dialled: through the proxy that HTTPS_PROXY or
// ALL_PROXY names (http by CONNECT, RFC 9110 9.3.6; socks5, RFC 1928), unless
// NO_PROXY takes the broker out. Plain AMQP and tunnels never go through one.
func proxied(env map[string]string, dsn broker.DSN) (broker.DialFunc, error) {
	direct := &net.Dialer{KeepAlive: 15 * time.Second}
	if !dsn.TLS {
		return direct.DialContext, nil
	}
	first := func(names ...string) string {
		for _, name := range names {
			if env[name] != "" {
				return env[name]
			}
		}
		return ""
	}
	config := httpproxy.Config{
		HTTPSProxy: first("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"), NoProxy: first("NO_PROXY", "no_proxy"),
	}
	via, err := config.ProxyFunc()(&url.URL{Scheme: "https", Host: dsn.Address()})
	switch {
	case err != nil:
		return nil, usageError("HTTPS_PROXY or ALL_PROXY must be a URL, as http://proxy:3128 or socks5://proxy:1080")
	case via == nil:
		return direct.DialContext, nil
	case via.Scheme == "socks5" || via.Scheme == "socks5h":
		return socks(via, direct)
	case via.Scheme == "http":
		return func(ctx context.Context, network, address string) (net.Conn, error) {
			return connectVia(ctx, direct, via, network, address)
		}, nil
	default:
		return nil, usageError("HTTPS_PROXY or ALL_PROXY must begin with http://, socks5:// or socks5h://")
	}
}

func socks(via *url.URL, direct *net.Dialer) (broker.DialFunc, error) {
	var auth *proxy.Auth
	if via.User != nil {
		password, _ := via.User.Password()
		auth = &proxy.Auth{User: via.User.Username(), Password: password}
	}
	dialer, err := proxy.SOCKS5("tcp", hostPort(via, "1080"), auth, direct)
	if err != nil {
		return nil, usageError("ALL_PROXY: the SOCKS5 proxy cannot be used")
	}
	contextDialer, ok := dialer.(proxy.ContextDialer)
	if !ok {
		return nil, usageError("ALL_PROXY: the SOCKS5 proxy cannot be used")
	}
	return contextDialer.DialContext, nil
}

func hostPort(u *url.URL, port string) string {
	if u.Port() != "" {
		port = u.Port()
	}
	return net.JoinHostPort(u.Hostname(), port)
}

var errProxyRefused = errors.New("the proxy refused")

// connectVia opens a tunnel through an HTTP proxy.
func connectVia(ctx context.Context, direct *net.Dialer, via *url.URL, network, address string) (_ net.Conn, err error) {
	conn, err := direct.DialContext(ctx, network, hostPort(via, "80"))
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() && err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			_ = conn.Close()
		}
	}()
	request := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: make(http.Header)}
	if via.User != nil {
		password, _ := via.User.Password()
		request.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(via.User.Username()+":"+password)))
	}
	if err := request.Write(conn); err != nil {
		return nil, err
	}
	// AMQP's client speaks first, so nothing of the broker's is read ahead.
	response, err := http.ReadResponse(bufio.NewReaderSize(conn, 16), request)
	if err != nil {
		return nil, err
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%w: status %d", errProxyRefused, response.StatusCode)
	}
	return conn, nil
}
