# The two commands for everybody: make demo and make test. Each installs what
# it lacks, starts real services of its own on loopback, and ends them.

.PHONY: all help deps lint build test demo compose conformance chaos chaos-long failpoints simulate recovery interop compare soak mutants hostile fuzz bench clean

all: lint build test

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' Makefile

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

conformance: deps ## every action against good, bad and hostile devices, as a table (3 minutes)
	@go test -count=1 -timeout 10m -run '^(TestScan|TestLLDP)' ./drivers/discover
	@cd drivers && CONFORMANCE_STRICT=1 go test -count=1 -timeout 20m -run '^TestConformance$$'

chaos: deps build ## kills and partitions under load: no job lost, no write twice? (2 minutes)
	@go build -o bin/chaos ./deploy/chaos/cmd/chaos
	@bin/chaos -seed 1 -duration 20s
	@bin/chaos -duration 20s
	@CGO_ENABLED=0 go build -tags failpoints -o bin/satellite-failpoints ./cmd/satellite
	@bin/chaos -binary bin/satellite-failpoints -failpoints -duration 20s

failpoints: deps ## die at every step of every class of job, REPEATS (default 3) times
	@CGO_ENABLED=0 go build -tags failpoints -o bin/satellite-failpoints ./cmd/satellite
	@go run ./deploy/chaos/cmd/chaos -binary bin/satellite-failpoints -matrix $(or $(REPEATS),3)

simulate: ## SEEDS (default 100000) random schedules in virtual time
	@SIM_SEEDS=$(or $(SEEDS),100000) go test -timeout 60m -run TestSimulate -v ./jobs

recovery: ## how long jobs stand still when the way breaks; ROUNDS (default 5)
	@RECOVERY_ROUNDS=$(or $(ROUNDS),5) go test -tags recovery -count=1 -timeout 90m -v -p 1 -run TestRecovery ./tunnel ./cmd/satellite

interop: deps ## a job each second past two key changes: the kernel's WireGuard in qemu, wireguard-go, the hub (4 minutes)
	@go test -tags interop -count=1 -parallel 4 -timeout 15m -v -run 'TestInterop$$' ./cmd/satellite

compare: deps ## the tunnel beside an OS VPN, plain AMQP and AMQPS: ratios and medians of ROUNDS (default 5)
	@COMPARE_ROUNDS=$(or $(ROUNDS),5) go test -tags compare -count=1 -timeout 20m -v -run 'TestCompare$$' ./cmd/satellite

soak: ## 1,000 tunnel cycles, a million datagrams of junk, every port of the hub
	@SOAK=1 go test -count=1 -timeout 20m -v -run 'TestOpenAndCloseLeavesNothing|TestHubIsSilentToStrangers|TestHubRefusesEveryOtherPort' ./tunnel

mutants: deps ## break the program in known ways: does the chaos run notice?
	@go run ./deploy/chaos/cmd/mutants

chaos-long: deps build ## the same until KILLS (default 10000) satellites were killed
	@go build -o bin/chaos ./deploy/chaos/cmd/chaos
	@bin/chaos -replicas 6 -kills $(or $(KILLS),10000)

hostile: ## what devices that hang, flood, drip, bomb... cost a satellite: time and memory
	@go test -tags hostile -count=1 -timeout 30m -v -run '^TestHostile$$' ./cmd/satctl

fuzz: ## every fuzz target for FUZZ_TIME (default 10s)
	@.ci/fuzz

bench: ## benchmarks, side by side
	@go test -run '^$$' -bench . -benchtime 1s ./...

clean: ## remove what was built
	@rm -rf bin
