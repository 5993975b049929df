# Builds, tests and checks every module of the repository. `make help` lists
# the targets. No tool need be installed but Go; a C compiler adds the race
# detector, a Docker engine adds containers.

# Recipes of several commands begin with "set -e": the make of macOS (3.81) does
# not know .SHELLFLAGS, and a failure in a loop must not be passed over.
.DEFAULT_GOAL := help

# Every module; those with code of our own (the others pin tools and servers).
MODULES := $(sort $(patsubst %/,%,$(dir $(shell find . -name go.mod -not -path './.git/*' -not -path '*/testdata/*'))))
CODE := $(filter-out ./tools ./integration/images/%,$(MODULES))
# The modules but integration, whose tests need servers.
UNIT := $(filter-out ./integration,$(CODE))

# Pinned in tools/go.mod; compiled on first use into Go's own cache.
TOOL := go tool -modfile=$(CURDIR)/tools/go.mod

# A test that hangs is killed, with all its goroutines shown, after:
UNIT_TIMEOUT ?= 10m
INTEGRATION_TIMEOUT ?= 20m
SOAK_TIMEOUT ?= 4h
SOAK_COUNT ?= 10
BENCH ?= .
BENCH_TIMEOUT ?= 30m

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

.PHONY: build
build: ## compile everything; the command goes to bin/skywarden
	@set -e; for m in $(CODE); do echo "build $$m"; (cd $$m && go build ./...); done
	@if [ -d cmd/skywarden ]; then go build -o bin/ ./cmd/skywarden; fi

.PHONY: test
test: images unit integration ## all tests, with the race detector where it builds
	@# Said again at the end: what was not as it should be must not scroll away.
	@tools/race-flag >/dev/null
	@cd integration && go run ./cmd/images -mode

.PHONY: images
images: ## make the server images of the integration tests (or, without Docker, the programs) ready
	@cd integration && go run ./cmd/images

.PHONY: unit
unit: ## tests that need no server
	@set -e; race=$$(tools/race-flag); for m in $(UNIT); do \
		echo "test $$race $$m"; (cd $$m && go test $$race -timeout $(UNIT_TIMEOUT) ./...); done

.PHONY: integration
integration: images ## tests against real servers
	@# One package at a time (-p 1): the fault tests measure time. Compiled
	@# before that, because -p 1 would also compile on one core.
	@set -e; race=$$(tools/race-flag); cd integration; \
		echo "test $$race ./integration"; \
		go build $$race ./...; \
		go test $$race -count=1 -p 1 -timeout $(INTEGRATION_TIMEOUT) ./...; \
		echo "test $$race ./integration/harness, servers as processes"; \
		SKYWARDEN_REQUIRE_CONTAINERS= SKYWARDEN_FORCE_PROCESSES=1 \
			go test $$race -count=1 -timeout $(INTEGRATION_TIMEOUT) ./harness

.PHONY: race
race: export SKYWARDEN_REQUIRE_RACE = 1
race: test ## all tests; no race detector is a failure

.PHONY: soak
soak: images ## the integration tests SOAK_COUNT times over
	@set -e; race=$$(tools/race-flag); cd integration; \
		SKYWARDEN_OUTAGE=60s go test $$race -p 1 -count=$(SOAK_COUNT) -timeout $(SOAK_TIMEOUT) ./...

.PHONY: bench
bench: ## benchmarks matching BENCH, without tests
	@set -e; for m in $(UNIT); do (cd $$m && go test -run '^$$' -bench '$(BENCH)' -benchmem -timeout $(BENCH_TIMEOUT) ./...); done

.PHONY: demo
demo: ## the demonstration: needs nothing
	@go run ./cmd/skywarden demo

.PHONY: lint
lint: ## linters, formatting, vet and go.mod files
	@set -e; for m in $(MODULES); do echo "tidy? $$m"; (cd $$m && go mod tidy -diff); done
	@set -e; unformatted=$$($(TOOL) gofumpt -l .); \
		if [ -n "$$unformatted" ]; then echo "not formatted (make fmt):" $$unformatted; exit 1; fi
	@set -e; for m in $(CODE); do echo "vet $$m"; (cd $$m && go vet ./...); done
	@set -e; for m in $(CODE); do echo "lint $$m"; (cd $$m && $(TOOL) golangci-lint run --allow-serial-runners ./...); done

.PHONY: cross
cross: ## compile and vet for Linux, macOS and Windows
	@set -e; for target in linux/amd64 darwin/arm64 windows/amd64; do for m in $(CODE); do \
		echo "cross $$target $$m"; \
		(cd $$m && export CGO_ENABLED=0 GOOS=$${target%/*} GOARCH=$${target#*/} && go build ./... && go vet ./...); \
	done; done

.PHONY: fmt
fmt: ## format every file
	@set -e; for m in $(CODE); do (cd $$m && $(TOOL) golangci-lint fmt ./...); done

.PHONY: tidy
tidy: ## go mod tidy in every module
	@set -e; for m in $(MODULES); do (cd $$m && go mod tidy); done

.PHONY: clean
clean: ## remove what make has built; not Go's caches, not the server images
	@rm -rf bin
