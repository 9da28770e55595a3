# `make` prints this list. Needed: Go, a C compiler, CMake; scripts/install.sh adds what a verb needs beside them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

export CGO_ENABLED := 1
export CGO_CFLAGS  ?= -O2 -g
export CGO_LDFLAGS ?=
export GOFLAGS     := -mod=readonly -trimpath -buildvcs=false
# The commit goes into the program where git can say it.
vcs := $(shell git status --porcelain >/dev/null 2>&1 && echo true || echo false)

jobs := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
STUDY ?= studies/quick.yaml
OUT   ?= study-$(basename $(notdir $(STUDY)))
PREFIX ?= /usr/local

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build native
build: native ## the program and its back ends: bin/anynetx and build/lib
	@mkdir -p bin
	go build -buildvcs=$(vcs) -o bin/anynetx ./cmd/anynetx
	@for l in build/lib/libanx_*; do ln -sf "../$$l" bin/; done

native:
	@scripts/install.sh build
	@mkdir -p build
	@cmake -S . -B build -DCMAKE_BUILD_TYPE=RelWithDebInfo >build/configure.log 2>&1 || { cat build/configure.log >&2; exit 1; }
	cmake --build build --parallel $(jobs)

.PHONY: study
study: ## train, analyse and report studies/quick.yaml (STUDY=file OUT=folder for another); again: resumes, or is done at once
	@scripts/install.sh study
	@$(MAKE) --no-print-directory build
	bin/anynetx data fetch --study $(STUDY)
	bin/anynetx study run $(STUDY) --out $(OUT)
	bin/anynetx analyze $(OUT)

.PHONY: test
test: ## everything that can be tested without a GPU, with a count of skips and their reasons
	@scripts/install.sh test
	@$(MAKE) --no-print-directory build harness-library lint build/venv
	ANX_REQUIRE=cuda_host ANX_READERS_PYTHON=$(CURDIR)/build/venv/bin/python go test -count=1 -timeout 20m -json ./... | go run ./scripts/testsummary

.PHONY: bench-scheduler
bench-scheduler: build ## what scheduling costs: 2,000 trainings that only wait, on 8 fake GPUs (2 minutes, the machine for itself)
	ANX_SCHEDULER_RUNS=2000 go test -count=1 -v -timeout 20m -run '^TestSchedulerOverhead$$' ./runner

.PHONY: test-faults
test-faults: build ## faults that take minutes: a real Slurm in distress, 100 seeded kills, checkpoints cut at every byte, disks full at every write
	ANX_FAULTS=1 ANX_REQUIRE=cpu go test -count=1 -timeout 20m -run 'Faults|KilledAndResumed$$|DamagedCheckpoint$$|DiskFullAtEachWrite' -json ./engine ./runner ./cmd/anynetx | go run ./scripts/testsummary

.PHONY: sanitize fuzz
FUZZ_SECONDS ?= 30
sanitize: ## native code with AddressSanitizer and UndefinedBehaviorSanitizer (its tests) and with ThreadSanitizer (cpu/race.c)
	@cmake -S . -B build/sanitize -DANX_SANITIZE=address,undefined >build/sanitize.log 2>&1 || { cat build/sanitize.log >&2; exit 1; }
	cmake --build build/sanitize --parallel $(jobs)
	ANX_LIBRARY_DIR=$(CURDIR)/build/sanitize/lib scripts/under-sanitizer.sh ./bindings/... ./engine | go run ./scripts/testsummary
	@cmake -S . -B build/tsan -DANX_SANITIZE=thread >build/tsan.log 2>&1 || { cat build/tsan.log >&2; exit 1; }
	cmake --build build/tsan --parallel $(jobs) --target anx_cpu_race
	TSAN_OPTIONS=halt_on_error=1 build/tsan/cpu/anx_cpu_race

fuzz: ## every fuzz target for FUZZ_SECONDS (30)
	@scripts/fuzz.sh $(FUZZ_SECONDS)

# Readers of our Parquet files, for tests only.
build/venv: scripts/readers/requirements.txt
	@rm -rf $@
	python3 -m venv $@
	scripts/retry.sh $@/bin/pip install --quiet --disable-pip-version-check --retries 5 -r $<
	@touch $@

.PHONY: bench-cpu
MODE ?= full
BENCH_PYTHON ?= build/venv-bench/bin/python
bench-cpu: build $(BENCH_PYTHON) ## training speed beside PyTorch, under 25 minutes: bench/results and docs/performance.md (MODE=quick: 7, the page stays)
	@result=$$($(BENCH_PYTHON) bench/cpu.py --python $(BENCH_PYTHON) --mode $(MODE)); \
	python3 bench/cpu_report.py "$$result" $(if $(filter full,$(MODE)),--page docs/performance.md); \
	echo "$${result%.json}.md"

# The peer of bench-cpu, apart from everything else.
build/venv-bench/bin/python: bench/cpu-requirements.txt
	@rm -rf build/venv-bench
	python3 -m venv build/venv-bench
	$(@D)/pip install --quiet --disable-pip-version-check --retries 5 -r $<
	@touch $@

.PHONY: harness harness-library harness-races harness-long cuda gpu-check
harness-library: native # libanx_cuda_host.so: the CUDA back end on the CPU harness
	cmake --build build --parallel $(jobs) --target harness
harness: harness-library ## the CUDA back end on the CPU harness: every kernel against the reference (a part of make test)
	ANX_REQUIRE=cuda_host go test -count=1 -timeout 20m -json ./cuda/... | go run ./scripts/testsummary
harness-races: # every access of a kernel is watched: what no barrier orders, in a warp, a block or between blocks, is a fault
	@cmake -S . -B build/races -DANX_RACES=ON >build/races.log 2>&1 || { cat build/races.log >&2; exit 1; }
	cmake --build build/races --parallel $(jobs) --target anx_reference harness
	ANX_LIBRARY_DIR=$(CURDIR)/build/races/lib ANX_REQUIRE=cuda_host ANX_EVERY=6 go test -count=1 -timeout 20m -run 'Harness|Conformance/^f16' -json ./cuda/... | go run ./scripts/testsummary
	ANX_LIBRARY_DIR=$(CURDIR)/build/races/lib ANX_REQUIRE=cuda_host ANX_EVERY=18 ANX_HOST_SM=70 ANX_HOST_UNITS=1 go test -count=1 -timeout 20m -run 'Conformance/^f16' -json ./cuda/... | go run ./scripts/testsummary
harness-long: harness-library harness-races ## what make test leaves out: kernels broken on purpose, races, another GPU and schedule, sanitizers
	kernels/selfcheck/mutations.sh
	scripts/gpu_check.sh dry
	ANX_REQUIRE=cuda_host ANX_HOST_SM=70 ANX_HOST_SEED=2 go test -count=1 -timeout 20m -run Conformance -json ./cuda/... | go run ./scripts/testsummary
	@cmake -S . -B build/sanitize -DANX_SANITIZE=address,undefined >build/sanitize.log 2>&1 || { cat build/sanitize.log >&2; exit 1; }
	cmake --build build/sanitize --parallel $(jobs) --target anx_reference anx_cpu harness
	ANX_LIBRARY_DIR=$(CURDIR)/build/sanitize/lib ANX_REQUIRE=cuda_host ANX_EVERY=5 scripts/under-sanitizer.sh -timeout 20m -run 'Conformance|Harness|Faults' ./cuda/... | go run ./scripts/testsummary
CUDA ?= 13
cuda: ## libanx_cuda.so for GPUs with CUDA=13 (sm_80, sm_90a; default) or CUDA=11 (sm_70, sm_80, sm_90); installs its compiler
	cuda/build.sh $(CUDA)
	@mkdir -p build/lib && cp build/cuda$(CUDA)-lib/libanx_cuda.so build/lib/
gpu-check: ## correctness, ceilings, kernels and speed beside PyTorch on the GPU at hand (build with make cuda first)
	scripts/gpu_check.sh pack && scripts/gpu_check.sh all

.PHONY: lint fmt
lint: ## gofmt and go vet
	@bad=$$(git ls-files -co --exclude-standard '*.go' | xargs -r gofmt -l); [ -z "$$bad" ] || { echo "not gofmt-clean (run make fmt): $$bad" >&2; exit 1; }
	go vet ./...
fmt: ## gofmt every Go file
	git ls-files -co --exclude-standard '*.go' | xargs -r gofmt -w

.PHONY: install clean
install: build ## copy program and libraries to PREFIX (/usr/local)
	install -D -t $(DESTDIR)$(PREFIX)/bin bin/anynetx
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib $$(ls build/lib/libanx_* | grep -v _host)
clean: ## remove what was built; studies stay
	rm -rf bin build
