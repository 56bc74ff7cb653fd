package main

import "golang.org/x/sys/unix"

// clockKeeper says whether the kernel knows of something that keeps the clock
// right (adjtimex(2)).
func clockKeeper() string {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	switch {
	case err != nil:
		return ""
	case state == unix.TIME_ERROR:
		return ", and no time service (NTP) keeps it right as far as the kernel knows"
	default:
		return ", kept right by a time service"
	}
}
