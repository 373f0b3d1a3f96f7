# Everything works on a bare Debian bookworm or trixie, as root: what is missing is installed on the way.
#
#   make run       brings up a tunnel to strongSwan in a virtual machine and shows what goes through
#   make build     builds the programs into bin/
#   make test      all tests: static checks, unit tests, and those that need a kernel with IPsec, in a virtual machine
#   make figures   measures what the project promises (ONLY=PREFIX for some of it)
#   make generate  makes the BPF objects from their C source (make test fails when they differ)
#   make sid       what is compared with strongSwan, with the newest one, Debian sid's (part of make soak)
#   make soak      what takes too long for make test (SOAK_TIME for each fuzz target)
#
# LAB_FLAGS goes to tools/lab: --uml PATH for a User-Mode Linux kernel, --kernel bookworm, --cpus 4 ... (bin/lab --help).
# LAB_JOBS is how many virtual machines share the tests, with 2 GiB each; LAB_TIME ends each of them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
.PHONY: run build test check generate generated unit lab-test fast-test kernels figures sid soak clean

LAB_FLAGS ?=
LAB_TIME ?= 30m
LAB_JOBS ?= 2
KERNELS ?= bookworm trixie
SOAK_TIME ?= 10m
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

# The first use of GO_DIR looks for Go, and gets it if need be; later ones know.
GO_DIR = $(eval GO_DIR := $$(or $$(shell tools/lab/setup),$$(error no Go to build with; setup says why above)))$(GO_DIR)
GO = PATH="$(GO_DIR):$$PATH" GOTOOLCHAIN=local go
GOFMT = "$(GO_DIR)/gofmt"
LAB = PATH="$(GO_DIR):$$PATH" GOTOOLCHAIN=local bin/lab

# What becomes a program: each command, the lab, the demo, as far as they exist.
PROGRAMS := $(sort $(patsubst %/,./%,$(dir $(wildcard cmd/*/main.go tools/lab/main.go tools/lab/demo/main.go))))

run: build
	@echo "== a tunnel between Espalier and strongSwan"
	@$(LAB) $(LAB_FLAGS) -- $(CURDIR)/bin/demo

build:
	@echo "== building $(notdir $(PROGRAMS)) into bin/"
	@mkdir -p bin
	@CGO_ENABLED=0 $(GO) build -trimpath -o bin/ $(PROGRAMS)

test: check generated unit lab-test fast-test kernels

check: build
	@echo "== gofmt"
	@unformatted=$$($(GOFMT) -l .); if [ -n "$$unformatted" ]; then echo "not formatted as gofmt does it:" $$unformatted; exit 1; fi
	@echo "== go vet"
	@$(GO) vet ./... && $(GO) vet -tags lab ./...
	@echo "== staticcheck"
	@$(GO) run $(STATICCHECK) -tags lab ./...

generate:
	@tools/lab/clang
	@$(GO) generate ./bpf

generated: build
	@echo "== the BPF objects against their source"
	@tools/lab/clang
	@PATH="$(GO_DIR):$$PATH" GOTOOLCHAIN=local tools/lab/generated

unit: build
	@echo "== unit tests"
	@$(GO) test ./...

# Tests that need the guest have the build tag lab; only packages that have some run there. One machine leaves a processor idle for half of the time.
lab-test: build
	@echo "== tests in the virtual machine"
	@$(LAB) test $(LAB_FLAGS) --jobs $(LAB_JOBS) --time-limit $(LAB_TIME) --tagged ./...

# An emulated processor is too slow to show what a flood or a full CPU does, and sends few packets. Where a User-Mode Linux kernel is at hand, these tests run in
# it as well.
UML ?= $(or $(ESPALIER_LAB_UML),$(lastword $(sort $(wildcard ../shared/lab/linux-*-um.xz))))
fast-test: build
	@if [ -n "$(UML)" ]; then \
		echo "== tests that want a fast machine, in User-Mode Linux: $(UML)"; \
		$(LAB) test --uml "$(UML)" --run 'TestGuard$$|TestFlowSteering$$|TestTunerSplits$$|TestDaemonKilled$$|TestCounters$$|TestReplayWindowGrows$$' ./tools/lab/fastpath; \
		$(LAB) test --uml "$(UML)" --run 'TestSwanctlControl$$' ./tools/lab/e2e; \
		echo "== numbered packets of SAs that move"; \
		$(LAB) test --uml "$(UML)" --run 'TestMovesKeepOrder$$' ./tools/lab/fastpath -- -tuner-load 100s; \
		echo "== two minutes of changing load with the tuner"; \
		$(LAB) test --uml "$(UML)" --run 'TestTunerChangingLoad$$' ./tools/lab/fastpath -- -tuner-load 120s; \
		$(LAB) test --uml "$(UML)" --cpus 4 --run 'TestPinned$$|TestEvenFlows$$' ./tools/lab/fastpath; \
		echo "== situations beside charon"; \
		$(LAB) test --uml "$(UML)" --run 'TestSituations$$' ./tools/lab/e2e; \
	else \
		echo "== no User-Mode Linux kernel (UML=PATH): what a flood costs is not tested, how clear packets are spread, nor counts of 100,000 packets, nor all situations beside charon"; \
	fi

# The BPF programs load, attach and stay within their budgets on these kernels, too; lab-test does all of it on the newest.
kernels: build
	@for kernel in $(KERNELS); do $(LAB) prepare --kernel $$kernel; done
	@$(MAKE) --no-print-directory --output-sync=target -j $(LAB_JOBS) $(addprefix kernel-,$(KERNELS))

.PHONY: $(addprefix kernel-,$(KERNELS))
$(addprefix kernel-,$(KERNELS)): kernel-%:
	@echo "== the BPF programs on Debian's kernel: $*"
	@$(LAB) test --kernel $* --run 'TestBudget|TestAttach|TestDrop' ./dataplane/flow/programs

# Only the figures on stdout.
figures:
	@$(MAKE) --no-print-directory build >&2
	@echo "== figures $(ONLY)" >&2
	@$(GO) run ./tools/figures $(ONLY)

# The guest's root with sid's programs costs a minute of a processor and 190 MB, and what sid has changes: no part of make test.
sid: build
	@echo "== tests with the newest strongSwan, of Debian sid"
	@$(LAB) test $(LAB_FLAGS) $(if $(UML),--uml "$(UML)") --time-limit 20m --root sid --run 'TestSwanctl|TestPerCPUStrongSwan$$' ./tools/lab/e2e

# Each fuzz target for SOAK_TIME, then the tests with the build tag soak.
soak: build sid
	@for package in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
			echo "== fuzzing $$package $$target for $(SOAK_TIME)"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(SOAK_TIME) $$package; \
		done; \
	done
	@echo "== tests with the build tag soak"
	@$(GO) test -tags soak -timeout 4h ./...
	@echo "== what else the tuner turns than moves"
	@$(LAB) test $(LAB_FLAGS) --run 'TestTunerCard$$' ./tools/lab/fastpath -- -tuner-load 1s
	@[ -z "$(UML)" ] || $(LAB) test --uml "$(UML)" --run 'TestTunerSpreads$$|TestTunerPcrypt$$' ./tools/lab/fastpath
	@echo "== half an hour of changing load with the tuner"
	@$(LAB) test $(LAB_FLAGS) --time-limit 60m --run 'TestMovesKeepOrder$$|TestTunerChangingLoad$$' ./tools/lab/fastpath -- -tuner-load 30m

clean:
	rm -rf bin
