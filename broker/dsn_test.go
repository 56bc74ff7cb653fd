package broker

import (
	"strings"
	"testing"

	"usm-satellite/jobs"
)

func TestParseDSN(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]DSN{
		"amqp://u:p@h":                      {Host: "h", Port: 5672, Username: "u", Password: jobs.NewSecret("p"), VHost: "/"},
		"amqps://u:p@h/%2f":                 {TLS: true, Host: "h", Port: 5671, Username: "u", Password: jobs.NewSecret("p"), VHost: "/"},
		"amqp://u:p@[2001:db8::1]:5673/erp": {Host: "2001:db8::1", Port: 5673, Username: "u", Password: jobs.NewSecret("p"), VHost: "erp"},
		"amqp://u:p?#@q@h:1/":               {Host: "h", Port: 1, Username: "u", Password: jobs.NewSecret("p?#@q"), VHost: "/"},
		"amqp://пётр:п%40@h/a%2Fb?x=1":      {Host: "h", Port: 5672, Username: "пётр", Password: jobs.NewSecret("п@"), VHost: "a/b"},
	} {
		got, err := ParseDSN(text)
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v", text, got, err)
		}
	}
}

func TestParseDSNQuotesNothing(t *testing.T) {
	t.Parallel()
	const secret = "canary-5ecret"
	for text, want := range map[string]string{
		"":                                "amqp://",
		"http://u:" + secret + "@h":       "amqp://",
		"amqp://h:5672":                   "user name",
		"amqp://:" + secret + "@h":        "user name",
		"amqp://u:" + secret + "@":        "no host",
		"amqp://u:" + secret + "@h:x":     "port",
		"amqp://u:" + secret + "@h:99999": "port",
		"amqp://u:" + secret + "%zz@h":    "%25",
		"amqp://u:" + secret + "@h/a/b":   "%2f",
	} {
		_, err := ParseDSN(text)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}

func FuzzParseDSN(f *testing.F) {
	f.Add("amqp://u:p@[::1]:5672/%2f")
	f.Fuzz(func(t *testing.T, text string) {
		if dsn, err := ParseDSN(text); err == nil && (dsn.Host == "" || dsn.Username == "" || dsn.VHost == "") {
			t.Fatalf("%q passed as %+v", text, dsn)
		}
	})
}
