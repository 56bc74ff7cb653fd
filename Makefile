# The two commands for everybody: make demo and make test. Each installs what
# it lacks, starts real services of its own on loopback, and ends them.

.PHONY: all help deps lint build test demo compose fuzz bench clean

all: lint build test

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile

deps: ## install what tests and demo need (Debian packages, as root)
	@.ci/deps

lint: ## format, vet, lint
	@.ci/lint

build: ## static binaries in bin/
	@.ci/build

test: ## all tests on real services, with the race detector
	@.ci/test

demo: deps build ## jobs through the tunnel, on this machine; KEEP=1 keeps it running
	@bin/satctl demo $(if $(KEEP),--keep)

compose: build ## the image and the compose files, with Docker
	@.ci/compose

fuzz: ## every fuzz target for FUZZ_TIME (default 10s)
	@.ci/fuzz

bench: ## benchmarks, side by side
	@go test -run '^$$' -bench . -benchtime 1s ./...

clean: ## remove what was built
	@rm -rf bin
