# strata: one driver, one binary. `make help` lists what there is.

SHELL         := /bin/bash
.SHELLFLAGS   := -euo pipefail -c
.DEFAULT_GOAL := help

GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS  := -s -w -X main.version=$(VERSION)
BIN      := bin/strata
# The image's name, as the chart has it, and the archive that `ctr images import` and
# `docker load` take.
IMAGE     ?= ghcr.io/strata-csi/strata
IMAGE_TAR := bin/strata-image.tar
# Packages with unit tests; the tests under test/ drive the real binary.
UNITS    := ./cmd/... ./hack/... ./pkg/...
FUZZTIME ?= 10s

export VERSION
# mke2fs and its like are there, and not on every user's path.
export PATH := $(PATH):/usr/sbin:/sbin

##@ Build

.PHONY: build
build: ## Build bin/strata: pure Go, static.
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/strata

.PHONY: build-ceph
build-ceph: ## Build bin/strata with the Ceph backend too: cgo, needs librbd-dev and librados-dev.
	CGO_ENABLED=1 $(GO) build -trimpath -tags ceph,pacific,ceph_preview -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/strata

.PHONY: image
image: build ## Build the container image IMAGE:VERSION as an archive, without a container engine.
	$(GO) run ./hack/image -strata $(BIN) -name $(IMAGE) -version '$(VERSION)' -out $(IMAGE_TAR) \
		-revision "$$(git rev-parse HEAD 2>/dev/null)" \
		-created "$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct 2>/dev/null || echo 0)}"

.PHONY: image-test
image-test: image ## Run what is in that image: every program, and file systems made with them (as root).
	STRATA_IMAGE=$(CURDIR)/$(IMAGE_TAR) $(GO) test -v -count=1 -timeout 10m ./hack/image

.PHONY: image-docker
image-docker: ## Build the same image with docker.
	docker build --build-arg VERSION='$(VERSION)' --build-arg REVISION="$$(git rev-parse HEAD 2>/dev/null)" \
		--build-arg CREATED="$$(git log -1 --format=%cI 2>/dev/null)" -t $(IMAGE):$(VERSION) .

.PHONY: clean
clean: ## Remove what was built here.
	rm -rf bin

##@ Try

.PHONY: demo
demo: setup build ## Show the whole of it on real data: 24 generations of clones, under two minutes.
	$(GO) run ./test/demo -strata $(BIN)

.PHONY: setup
setup: ## Install the Debian packages which demo and tests need (as root).
	hack/setup.sh

##@ Prove

.PHONY: test
test: ## Everything that proves strata: all tiers below but bench, with a summary.
	hack/test.sh

.PHONY: unit
unit: ## Unit tests of every package, at full size.
	hack/tier.sh unit

.PHONY: race
race: ## Every test of every package with the race detector, the long ones shortened.
	CGO_ENABLED=1 $(GO) test -v -short -race -timeout 30m $(UNITS)

.PHONY: conformance
conformance: ## The contract of pkg/store, run on every backend.
	hack/tier.sh conformance

.PHONY: model
model: ## Model checker: at least 200,000 operations over at least 200 seeds on the embedded store.
	hack/tier.sh model

.PHONY: crash
crash: ## Crash at every write, power cut, fault at every operation.
	hack/tier.sh crash

.PHONY: scale
scale: ## Long lineages at full size, with the figures: depth, layers, bytes copied, syncs, cold reads.
	hack/tier.sh scale

.PHONY: fuzz
fuzz: ## Every fuzz target for FUZZTIME each (default 10s).
	FUZZTIME=$(FUZZTIME) hack/fuzz.sh

.PHONY: interop
interop: setup build ## nbdinfo, nbdcopy, qemu-img, qemu-io, fio, libnbd and nbdkit against the real server.
	STRATA_BIN=$(CURDIR)/$(BIN) $(GO) test -v -count=1 -timeout 20m ./test/interop/...

.PHONY: chart
chart: ## The Helm chart: rendered, decoded strictly, linted, its schema and what each account may do.
	hack/chart.sh test

.PHONY: vm
vm: setup ## Kernel NBD in guest kernels: package tests, then scenarios with the real processes.
	hack/vm.sh

.PHONY: ceph
ceph: ## The Ceph backend on a real cluster on loopback: installs Debian's packages (as root).
	hack/ceph.sh

.PHONY: ceph-vm
ceph-vm: ## Ceph and kernel NBD in one guest: scenarios with the real processes, all of csi-sanity (as root).
	hack/ceph-vm.sh

.PHONY: e2e
e2e: ## A real Kubernetes with two nodes that have kernel NBD: the chart, volumes in pods, upgrades, failures (as root).
	hack/e2e.sh

.PHONY: e2e-upstream
e2e-upstream: ## All upstream storage tests that apply, on that cluster; the table is bin/upstream.md (as root, hours).
	hack/e2e.sh upstream

.PHONY: bench
bench: setup build ## strata beside nbdkit, qemu-nbd and cp, over Ceph beside rbd-nbd: rates, CPU a request, ratios.
	$(GO) run ./test/bench -strata $(BIN)
	hack/ceph-bench.sh

.PHONY: gobench
gobench: ## Go benchmarks of every package.
	$(GO) test -run '^$$' -bench . -benchmem $(UNITS)

.PHONY: fresh
fresh: ## demo and test, twice each, in a new Debian 12 root that has none of the packages (as root).
	hack/fresh.sh

##@ Keep

.PHONY: lint
lint: ## golangci-lint with the rules of .golangci.yml, what build tags hide included.
	hack/lint.sh

.PHONY: update
update: ## Regenerate generated code.
	hack/update.sh

.PHONY: chart-update
chart-update: ## Render the chart's goldens and the plain manifests anew.
	hack/chart.sh update

.PHONY: verify
verify: ## Check formatting, vet, go.mod, generated code and shell scripts.
	hack/verify.sh

.PHONY: help
help: ## Print this.
	@awk 'BEGIN {FS = ":.*## "} /^##@ / {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
