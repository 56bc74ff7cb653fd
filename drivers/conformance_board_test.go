package drivers

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// tally counts what is looked for in every job of a row.
type tally struct {
	jobs, secrets, leaks int
	cancelled            time.Duration // from the cancellation to the return; 0: none was measured
}

// board is the conformance table as it is printed: a line for each row, a
// column for each demand, and the reasons where one cannot be made.
type board struct {
	lines   [][]string
	reasons []string
	failed  int
}

func (b *board) begin(c conformer) { b.lines = append(b.lines, []string{c.name()}) }

func (b *board) note(passed bool, c conformer, demand string) {
	cell := "ok"
	switch {
	case !passed:
		cell = b.fail()
	case c.not[demand] != "":
		cell = "- " + b.reason(c.not[demand])
	case c.elsewhere[demand] != "":
		cell = "ok " + b.reason("met by "+c.elsewhere[demand])
	case demand == cancelled && c.seen.cancelled > 0:
		cell = fmt.Sprintf("%.1f ms", float64(c.seen.cancelled.Microseconds())/1000)
	}
	b.add(cell)
}

// end adds the columns of what is looked for in every job.
func (b *board) end(c conformer) {
	for _, found := range []int{c.seen.secrets, c.seen.leaks} {
		if found > 0 {
			b.add(b.fail())
		} else {
			b.add("ok")
		}
	}
	b.add(fmt.Sprint(c.seen.jobs))
}

func (b *board) add(cell string) {
	last := len(b.lines) - 1
	b.lines[last] = append(b.lines[last], cell)
}

func (b *board) fail() string {
	b.failed++
	return "FAIL"
}

// reason returns the number of a footnote.
func (b *board) reason(text string) string {
	at := slices.Index(b.reasons, text)
	if at < 0 {
		at = len(b.reasons)
		b.reasons = append(b.reasons, text)
	}
	return fmt.Sprintf("(%d)", at+1)
}

func (b *board) print(out io.Writer) {
	head := []string{"action and device", "good", "refused", "silent", "slow", "garbled", "dropped", "cancelled", "parameter", "login", "huge", "secrets", "goroutines", "jobs"}
	lines := append([][]string{head}, b.lines...)
	wide := make([]int, len(head))
	for _, line := range lines {
		for i, cell := range line {
			wide[i] = max(wide[i], len(cell))
		}
	}
	fmt.Fprintln(out)
	for n, line := range lines {
		text := ""
		for i, cell := range line {
			text += fmt.Sprintf("%-*s  ", wide[i], cell)
		}
		fmt.Fprintln(out, strings.TrimRight(text, " "))
		if n == 0 {
			fmt.Fprintln(out, strings.Repeat("-", len(text)-2))
		}
	}
	fmt.Fprintln(out, "\ncancelled: time from the cancellation to the return. secrets, goroutines: none was found after any of the jobs.")
	for i, reason := range b.reasons {
		fmt.Fprintf(out, "(%d) %s\n", i+1, reason)
	}
	fmt.Fprintf(out, "%d actions, %d failures\n", len(slices.Compact(b.actions())), b.failed)
}

func (b *board) actions() (all []string) {
	for _, line := range b.lines {
		name, _, _ := strings.Cut(line[0], " ")
		all = append(all, name)
	}
	return all
}

// check finds what is wrong with a row itself: a demand that there is not, or
// a test that there is not.
func (c conformer) check(t *testing.T) {
	t.Helper()
	known := func(name string) bool {
		return slices.ContainsFunc(demands(), func(d demand) bool { return d.name == name })
	}
	for _, names := range []map[string]string{c.not, c.elsewhere} {
		for name := range names {
			if !known(name) {
				t.Errorf("%q is no demand", name)
			}
		}
	}
	for name := range c.own {
		if !known(name) {
			t.Errorf("%q is no demand", name)
		}
	}
	if c.login == "" && c.not[wrongLogin] == "" {
		t.Error("it has no credential, and does not say why")
	}
	family, _, _ := strings.Cut(c.action, ".")
	for _, test := range c.elsewhere {
		if !defined(t, family, test) {
			t.Errorf("%s is not in drivers/%s", test, family)
		}
	}
}

func defined(t *testing.T, family, test string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(family, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(files, func(file string) bool {
		text, err := os.ReadFile(file)
		return err == nil && strings.Contains(string(text), "\nfunc "+test+"(")
	})
}
