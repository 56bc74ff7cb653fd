package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

const lookupLimit = 2 * time.Second

// route chooses among the endpoints of the peer: every address of every name,
// in the order of the configuration.
type route struct {
	names   []string
	resolve ResolveFunc

	mu    sync.Mutex
	known map[string][]netip.Addr // guarded by mu: last good answers
	name  int                     // guarded by mu: index into names
	addr  netip.AddrPort          // guarded by mu: in use
	moves uint64                  // guarded by mu
	why   string                  // guarded by mu: why nothing was found
}

func newRoute(names []string, resolve ResolveFunc) *route {
	if resolve == nil {
		resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	return &route{names: names, resolve: resolve, known: map[string][]netip.Addr{}}
}

func (r *route) view() (addr netip.AddrPort, name string, moves uint64, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.addr, r.names[r.name], r.moves, r.why
}

type candidate struct {
	name int
	addr netip.AddrPort
}

// next looks every name up again and moves on: to the new address of the name
// in use when its old one is gone, else, unless it is to stay, to the next
// address in order. When nothing can be found it stays; the error says which
// name failed.
func (r *route) next(ctx context.Context, stay bool) (netip.AddrPort, error) {
	all, err := r.candidates(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(all) == 0 {
		if err != nil {
			r.why = err.Error()
		}
		return r.addr, err
	}
	r.why = ""
	chosen := r.choose(all, stay)
	if chosen.addr != r.addr {
		if r.addr.IsValid() {
			r.moves++
		}
		r.name, r.addr = chosen.name, chosen.addr
	}
	return r.addr, err
}

func (r *route) choose(all []candidate, stay bool) candidate {
	first := candidate{name: -1}
	for i, c := range all {
		if c.addr == r.addr && stay {
			return c
		}
		if c.addr == r.addr {
			return all[(i+1)%len(all)]
		}
		if c.name == r.name && first.name < 0 {
			first = c
		}
	}
	if first.name >= 0 {
		return first
	}
	return all[0]
}

func (r *route) candidates(ctx context.Context) ([]candidate, error) {
	var all []candidate
	var errs []error
	for i, name := range r.names {
		host, port, err := splitEndpoint(name)
		if err != nil {
			continue // Validate has refused it
		}
		addrs, err := r.lookup(ctx, host)
		if err != nil {
			errs = append(errs, fmt.Errorf("endpoint %s: %w", name, err))
		}
		for _, a := range addrs {
			all = append(all, candidate{name: i, addr: netip.AddrPortFrom(a.Unmap(), port)})
		}
	}
	return all, errors.Join(errs...)
}

// lookup answers from memory when the name servers do not: they may be out of
// reach for the same reason as the endpoint.
func (r *route) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupLimit)
	defer cancel()
	addrs, err := r.resolve(ctx, host)
	if err == nil && len(addrs) == 0 {
		err = errors.New("the name has no address")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		return r.known[host], err
	}
	r.known[host] = addrs
	return addrs, nil
}
