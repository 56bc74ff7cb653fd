package main

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"sort"
	"strings"
)

// environment turns KEY=value lines into a map.
func environment(lines []string) map[string]string {
	env := make(map[string]string, len(lines))
	for _, line := range lines {
		if key, value, ok := strings.Cut(line, "="); ok {
			env[key] = value
		}
	}
	return env
}

// names returns the variables of a settings struct, and which may also come
// from a file (NAME_FILE).
func names(settings ...any) (all, secret []string) {
	for _, s := range settings {
		t := reflect.TypeOf(s)
		for field := range t.Fields() {
			name := field.Tag.Get("env")
			if name == "" {
				continue
			}
			all = append(all, name)
			if field.Tag.Get("secret") == "true" {
				secret = append(secret, name)
			}
		}
	}
	return all, secret
}

// readSecretFiles replaces each NAME_FILE by the contents of the file. A
// secret that is given both ways is an error: it is not clear which is meant.
func readSecretFiles(env map[string]string, secrets []string) (map[string]string, error) {
	out := maps.Clone(env)
	for _, name := range secrets {
		path := env[name+"_FILE"]
		delete(out, name+"_FILE")
		if path == "" {
			continue
		}
		if env[name] != "" {
			return nil, usageError("%s and %s_FILE are both set; remove one", name, name)
		}
		value, err := os.ReadFile(path)
		if err != nil {
			return nil, usageError("%s_FILE: the file cannot be read (%s); it must exist and be readable for this user", name, reason(err))
		}
		out[name] = strings.TrimSpace(string(value))
		if out[name] == "" {
			return nil, usageError("%s_FILE: the file is empty", name)
		}
	}
	return out, nil
}

// reason is the error of the operating system without the path, which the
// message has already.
func reason(err error) string {
	switch {
	case os.IsNotExist(err):
		return "no such file"
	case os.IsPermission(err):
		return "permission denied"
	default:
		return "read error"
	}
}

// checkNames finds misspelt settings: one or two letters off a name of ours is
// an error, any other unknown USM_ name a warning. Unknown US_ names belong to
// the ERP, whose whole .env may be handed to us.
func checkNames(env map[string]string, known []string) (warnings []string, err error) {
	keys := make([]string, 0, len(env))
	for key := range env {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	for _, key := range keys {
		if slices.Contains(known, key) || !strings.HasPrefix(key, "US_") && !strings.HasPrefix(key, "USM_") {
			continue
		}
		if near := nearest(key, known); near != "" {
			return nil, usageError("%s is not a setting; did you mean %s?", key, near)
		}
		if strings.HasPrefix(key, "USM_") {
			warnings = append(warnings, fmt.Sprintf("%s is not a setting of this program and has no effect", key))
		}
	}
	return warnings, nil
}

func nearest(key string, known []string) string {
	for _, name := range known {
		if distance(key, name) <= 2 {
			return name
		}
	}
	return ""
}

// distance is the number of letters to insert, delete, change or swap with
// their neighbour to make b of a (optimal string alignment).
func distance(a, b string) int {
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}

// help returns what the README says of a setting.
func help(settings any, name string) string {
	for field := range reflect.TypeOf(settings).Fields() {
		if field.Tag.Get("env") == name {
			return field.Tag.Get("help")
		}
	}
	return ""
}
