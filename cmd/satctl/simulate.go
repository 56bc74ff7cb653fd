package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"strconv"
	"strings"
	"text/tabwriter"

	"usm-satellite/drivers/simulator"
)

const simulateHelp = `Usage:
  satctl simulate [options]

Is a network device until Ctrl-C: SNMP (versions 1 and 2c), a command line by
Telnet and SSH, and a web server, on free ports that are printed. What jobs set
or configure is remembered as long as it runs. Its logins are no secrets: keep
it on loopback, or in a laboratory.

Examples:
  satctl simulate                                 a switch with 48 ports
  satctl simulate --list                          what else there is
  satctl simulate --profile olt --port snmp=1161
  satctl simulate --profile ./mine.txt            a device of your own
  satctl simulate --fault snmp=hang --fault http=bomb
  satctl simulate --print ups > mine.txt          a profile to start from
  satctl simulate --devices 1000 --listen 127.1.0.1 --port snmp=1161

Options:
  --profile NAME|FILE        the device (default switch48); a file has a slash
                             or a dot in its name
  --listen ADDRESS           IP address (default 127.0.0.1)
  --devices N                so many of them, at the addresses from that of
                             --listen on, all with the same ports (1 to 65536)
  --port SERVICE=PORT        a port instead of a free one; may come again
  --fault SERVICE=FAULT      may come again. Services: snmp, ssh, telnet, http,
                             all. Faults: refuse, hang, drip, garble, flood,
                             drop (in the middle), endless; http also bomb
  --list                     list the profiles, end
  --print NAME               print a profile, end
  --verbose                  log every connection, command and request

Exit codes:
  0  ended by Ctrl-C
  1  an address or a port could not be had
  2  the command line or a profile is wrong
`

type simulateOptions struct {
	profile, listen, show string
	ports, faults         listFlag
	list, verbose         bool
	devices               int
}

const maxDevices = 1 << 16

func simulate(ctx context.Context, args []string, sys system) error {
	o := &simulateOptions{}
	flags := newFlags("simulate")
	flags.StringVar(&o.profile, "profile", "switch48", "")
	flags.StringVar(&o.listen, "listen", "127.0.0.1", "")
	flags.StringVar(&o.show, "print", "", "")
	flags.Var(&o.ports, "port", "")
	flags.Var(&o.faults, "fault", "")
	flags.IntVar(&o.devices, "devices", 1, "")
	flags.BoolVar(&o.list, "list", false, "")
	flags.BoolVar(&o.verbose, "verbose", false, "")
	if err := parse(flags, args); err != nil {
		return err
	}
	switch {
	case flags.NArg() > 0:
		return usagef("does not know what to do with %q", flags.Arg(0))
	case o.list:
		return listProfiles(sys.Stdout)
	case o.show != "":
		text, err := simulator.Text(o.show)
		if err != nil {
			return codedError{exitUsage, err}
		}
		fmt.Fprint(sys.Stdout, text)
		return nil
	}
	profile, err := simulator.Load(o.profile)
	if err != nil {
		return codedError{exitUsage, profileError(o.profile, err)}
	}
	options, err := o.options(sys.Stderr)
	if err != nil {
		return codedError{exitUsage, err}
	}
	return runDevices(ctx, profile, options, o.devices, func(last string, ports map[simulator.Service]int) {
		showDevice(sys.Stdout, profile, options, ports)
		if o.devices > 1 {
			fmt.Fprintf(sys.Stdout, "%d devices, up to the address %s.\n", o.devices, last)
		}
		fmt.Fprintln(sys.Stdout, "Ctrl-C ends it.")
	})
}

// runDevices runs n devices until ctx ends, or one of them does. It calls ready
// when all of them are there.
func runDevices(ctx context.Context, profile *simulator.Profile, o simulator.Options, n int, ready func(last string, ports map[simulator.Service]int)) (err error) {
	ctx, stop := context.WithCancel(ctx)
	ended, running := make(chan error, n), 0
	defer func() {
		stop()
		for ; running > 0; running-- {
			err = cmp.Or(err, <-ended)
		}
	}()
	address := netip.MustParseAddr(o.Address)
	for ; ; address = address.Next() {
		o.Address = address.String()
		there := make(chan map[simulator.Service]int, 1)
		o.Ready = func(ports map[simulator.Service]int) { there <- ports }
		go func() { ended <- profile.Run(ctx, o) }()
		running++
		select {
		case o.Ports = <-there: // those of the first are for all
		case err := <-ended:
			running--
			return err
		}
		if running == n {
			break
		}
	}
	ready(o.Address, o.Ports)
	err = <-ended
	running--
	return err
}

// profileError says what to do where the file is the problem.
func profileError(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("--profile: there is no file %s; satctl simulate --list shows the names", name)
	}
	return fmt.Errorf("--profile: %w", err)
}

func (o *simulateOptions) options(stderr io.Writer) (simulator.Options, error) {
	options := simulator.Options{Address: o.listen, Ports: make(map[simulator.Service]int), Faults: make(map[simulator.Service]simulator.Fault)}
	if o.devices < 1 || o.devices > maxDevices {
		return options, fmt.Errorf("--devices: must be 1 to %d", maxDevices)
	}
	if _, err := netip.ParseAddr(o.listen); err != nil {
		return options, fmt.Errorf("--listen: %q is no IP address; write one as 127.0.0.1", o.listen)
	}
	for _, fault := range o.faults {
		if err := simulator.ParseFaults(fault, options.Faults); err != nil {
			return options, fmt.Errorf("--fault: %w", err)
		}
	}
	for _, text := range o.ports {
		name, number, _ := strings.Cut(text, "=")
		port, err := strconv.ParseUint(number, 10, 16)
		if err != nil || !knownService(name) {
			return options, fmt.Errorf("--port: %q is no port of a service; write it as snmp=1161", text)
		}
		options.Ports[simulator.Service(name)] = int(port)
	}
	if o.verbose {
		options.Logger = slog.New(slog.NewTextHandler(stderr, nil))
	}
	return options, nil
}

func knownService(name string) bool {
	for _, service := range simulator.Services() {
		if string(service) == name {
			return true
		}
	}
	return false
}

func listProfiles(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, name := range simulator.List() {
		profile, err := simulator.Load(name)
		if err != nil {
			return err
		}
		fmt.Fprintf(table, "%s\t%s\n", name, profile.Title)
	}
	return table.Flush()
}

func showDevice(out io.Writer, profile *simulator.Profile, o simulator.Options, ports map[simulator.Service]int) {
	fmt.Fprintf(out, "%s: %s\n", profile.Name, profile.Title)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	faults := profile.Faults()
	maps.Copy(faults, o.Faults)
	for _, service := range simulator.Services() {
		note := profile.Access(service)
		if fault := faults[service]; fault != "" {
			note += ", fault: " + string(fault)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", service, netip.AddrPortFrom(netip.MustParseAddr(o.Address), uint16(ports[service])), note) //nolint:gosec // a port
	}
	_ = table.Flush()
}
