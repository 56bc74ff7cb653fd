package main

import (
	"bytes"
	"flag"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func commands() []string {
	return []string{"submit", "enroll", "revoke", "keygen", "top", "simulate", "demo", "version"}
}

// inProcess runs a command line that ends before it touches anything.
func inProcess(t *testing.T, env map[string]string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, system{
		Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs,
		Getenv: func(name string) string { return env[name] },
	})
	return code, out.String(), errs.String()
}

func TestEveryCommandHelps(t *testing.T) {
	t.Parallel()
	code, overview, _ := inProcess(t, nil, "--help")
	if code != exitOK {
		t.Errorf("--help: exit code %d", code)
	}
	listed := regexp.MustCompile(`(?m)^  ([a-z]+)  `).FindAllStringSubmatch(overview, -1)
	names := make([]string, 0, len(listed))
	for _, l := range listed {
		names = append(names, l[1])
	}
	if !slices.Equal(names, commands()) {
		t.Errorf("--help lists %v, want %v", names, commands())
	}
	for _, name := range commands() {
		code, out, errs := inProcess(t, nil, name, "--help")
		if code != exitOK || errs != "" || !strings.Contains(out, "satctl "+name) {
			t.Errorf("%s --help: %d %q %q", name, code, out, errs)
		}
		code, _, errs = inProcess(t, nil, name, "--no-such-option")
		if code != exitUsage || !strings.Contains(errs, "--no-such-option") || !strings.Contains(errs, "satctl "+name+" --help") {
			t.Errorf("%s: %d %q", name, code, errs)
		}
	}
}

// TestHelpNamesEveryOption holds the texts against the flags themselves.
func TestHelpNamesEveryOption(t *testing.T) {
	t.Parallel()
	none := func(string) string { return "" }
	for help, register := range map[string]func(*flag.FlagSet){
		submitHelp: func(f *flag.FlagSet) { (&submitOptions{}).register(f, none) },
		enrollHelp: func(f *flag.FlagSet) { (&enrollOptions{}).register(f, none) },
		topHelp:    func(f *flag.FlagSet) { (&topOptions{}).register(f, none) },
		demoHelp:   func(f *flag.FlagSet) { (&demoOptions{}).register(f, none) },
		revokeHelp: func(f *flag.FlagSet) { (&revokeOptions{}).register(f, none) },
	} {
		flags := newFlags("x")
		register(flags)
		elsewhere := []string{"dsn", "ca-file", "cert-file", "key-file", "results-exchange"}
		flags.VisitAll(func(f *flag.Flag) {
			if !strings.Contains(help, "--"+f.Name) && !slices.Contains(elsewhere, f.Name) {
				t.Errorf("%.30q does not name --%s", help, f.Name)
			}
		})
		for _, option := range regexp.MustCompile(`--([a-z-]+)`).FindAllStringSubmatch(help, -1) {
			if flags.Lookup(option[1]) == nil && option[1] != "help" {
				t.Errorf("%.30q names --%s, which is none", help, option[1])
			}
		}
	}
}

func TestMisuseSaysWhatToDo(t *testing.T) {
	t.Parallel()
	const secret = "canary-5ecret"
	site := []string{"enroll", "--satellite", "7", "--endpoint", "h:1"}
	for name, tc := range map[string]struct {
		args []string
		env  map[string]string
		want string
	}{
		"nothing":              {nil, nil, "Usage:"},
		"unknown":              {[]string{"sumbit"}, nil, "satctl --help"},
		"no satellite":         {[]string{"submit", "--action", "a"}, nil, "--satellite is missing"},
		"bad satellite":        {[]string{"submit", "--action", "a", "--satellite", "7.*"}, nil, "--satellite must be"},
		"no action":            {[]string{"submit", "--satellite", "7"}, nil, "--action is missing"},
		"stray argument":       {[]string{"submit", "--satellite", "7", "--action", "a", "b"}, nil, `"b"`},
		"bad target":           {[]string{"submit", "--satellite", "7", "--action", "a", "--target", "a b"}, nil, "target.address"},
		"bad class":            {[]string{"submit", "--satellite", "7", "--action", "a", "--class", "c"}, nil, "class must be"},
		"negative timeout":     {[]string{"submit", "--satellite", "7", "--action", "a", "--timeout", "-1s"}, nil, "--timeout"},
		"bad priority":         {[]string{"submit", "--satellite", "7", "--action", "a", "--priority", "10"}, nil, "--priority"},
		"no DSN":               {[]string{"submit", "--satellite", "7", "--action", "a"}, nil, "US_AMQP_DSN"},
		"bad DSN":              {[]string{"submit", "--satellite", "7", "--action", "a"}, map[string]string{"US_AMQP_DSN": "amqp://u:" + secret + "%zz@h"}, "US_AMQP_DSN holds a percent sign"},
		"bad --dsn":            {[]string{"submit", "--satellite", "7", "--action", "a", "--dsn", "http://u:" + secret + "@h"}, nil, "--dsn must begin with amqp://"},
		"no DSN file":          {[]string{"submit", "--satellite", "7", "--action", "a"}, map[string]string{"US_AMQP_DSN_FILE": "/nonexistent/dsn"}, "US_AMQP_DSN_FILE"},
		"no CA":                {[]string{"submit", "--satellite", "7", "--action", "a", "--dsn", "amqps://u:p@h", "--ca-file", "/nonexistent"}, nil, "--ca-file"},
		"half a certificate":   {[]string{"submit", "--satellite", "7", "--action", "a", "--dsn", "amqps://u:p@h", "--cert-file", "x"}, nil, "--key-file"},
		"no endpoint":          {[]string{"enroll", "--satellite", "7"}, nil, "--endpoint"},
		"no place for peers":   {site, nil, "--peers-file"},
		"no broker user":       {append(site, "--peers-file", "p"), nil, "--management"},
		"no hub key":           {append(site, "--peers-file", "p", "--definitions", "d"), nil, "--hub-public-key"},
		"bad hub key":          {append(site, "--peers-file", "p", "--definitions", "d"), map[string]string{"USM_HUB_PRIVATE_KEY": secret}, "USM_HUB_PRIVATE_KEY is no WireGuard key"},
		"bad management":       {[]string{"revoke", "--satellite", "7", "--management", "u:" + secret + "@h"}, nil, "--management (USM_MANAGEMENT_URL) must be"},
		"key for many":         {append(site, "--replicas", "2", "--public-key", "x"), nil, "--replicas"},
		"revoke of nothing":    {[]string{"revoke", "--satellite", "7"}, nil, "--peers-file"},
		"keygen without place": {[]string{"keygen"}, nil, "one argument"},
	} {
		code, out, errs := inProcess(t, tc.env, tc.args...)
		if code != exitUsage || out != "" || !strings.Contains(errs, tc.want) || strings.Contains(errs, secret) {
			t.Errorf("%s: exit code %d, %q, want %q", name, code, errs, tc.want)
		}
	}
}
