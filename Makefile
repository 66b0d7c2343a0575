# Baton: every target installs what it needs on a fresh Debian or Ubuntu machine that has Rust, git and make.

CARGO   ?= cargo
KEEP    ?= 0
MINUTES ?= 10
SEED    ?=
EACH    ?= 30
DOCKER  ?= docker
TAG     ?= latest

.DEFAULT_GOAL := help
.PHONY: help demo test soak bench fuzz image fmt lint deps

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: deps ## A cluster loses its primary under load, told step by step in two minutes; KEEP=1 leaves it running until Ctrl-C
	$(CARGO) build --locked -p baton-relay -p baton-failover -p baton-testbed --bins
	KEEP=$(KEEP) $(CARGO) run --locked --quiet -p baton-testbed --bin demo

test: deps ## Formatting, lints, unit tests, end-to-end tests against real servers; KEEP=1 keeps their directories
	@KEEP=$(KEEP) CARGO="$(CARGO)" scripts/test.sh

soak: deps ## Random faults under load, for whole clusters, the relay, and its every operation: MINUTES=10 (each) SEED=<number of an earlier run>
	$(CARGO) build --locked -p baton-relay --bins
	$(CARGO) build --locked --release -p baton-relay -p baton-failover -p baton-testbed --bins
	$(CARGO) run --locked --release --quiet -p baton-testbed --bin soak -- --what failover --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))
	$(CARGO) run --locked --release --quiet -p baton-testbed --bin soak -- --what steps
	$(CARGO) run --locked --release --quiet -p baton-testbed --bin soak -- --what relay --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))
	$(CARGO) run --locked --release --quiet -p baton-testbed --bin soak -- --what failpoints --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

bench: deps ## Measure the relay against the primary, an intermediate replica and sendfile; QUICK=1 for a first look
	$(CARGO) build --locked --release -p baton-relay -p baton-testbed --bins
	$(CARGO) run --locked --release --quiet -p baton-testbed --bin bench -- $(if $(QUICK),--quick)

fuzz: deps ## Fuzz every parser of the wire crate, one behind the other: EACH=30 (seconds)
	scripts/fuzz.sh $(EACH)

image: ## Build the images baton:TAG (programs) and baton-database:TAG (beside a server); DOCKER=podman, BUILD_ARGS="--build-arg RUNTIME_IMAGE=..."
	$(DOCKER) build $(BUILD_ARGS) --target baton -t baton:$(TAG) .
	$(DOCKER) build $(BUILD_ARGS) --target database -t baton-database:$(TAG) .

fmt: ## Format the code
	$(CARGO) fmt --all

lint: deps ## Check formatting and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) clippy --locked --workspace --all-targets --features baton-failover/kubernetes -- -D warnings

deps: ## Install what is missing (apt); instant when all is there
	@scripts/install-deps.sh
