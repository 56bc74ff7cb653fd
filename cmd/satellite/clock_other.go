//go:build !linux

package main

func clockKeeper() string { return "" }
