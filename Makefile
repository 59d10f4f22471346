# Every target makes and refreshes .venv by itself.
#
#   make tune                       bge-base, batch 1, length 128, on this CPU, in three minutes
#   make tune MODEL=e5-large SHAPES="4x128 1x512" BUDGET=5m
#   make tune TARGET=cuda           float16, on the first GPU
#   make build TARGET=cuda ARCH=sm_90a   a library for a GPU, on a machine that may have none
#   make compare MODEL=e5-large     tuned kernels against TVM's own, the stock rules' and PyTorch's
#   make compare MODEL=             the same for every workload that has a record
#   make serve MODEL=bge-small      its embeddings over HTTP
#   make loadtest MODEL=bge-small   how many a second, packed and padded

PYTHON ?= python3
TARGET ?= llvm
# Of a GPU that this machine has not, for build: sm_90a, sm_80, ...
ARCH ?=
MODEL ?= bge-base
SHAPES ?=
TRIALS ?=
BUDGET ?=
LENS ?=
DTYPE ?=
SEED ?=
DATABASE ?=
OUTPUT ?= dist
# A revision of git, for report and compare: what changed since.
AGAINST ?=
# Optional parts to install besides those that a target needs, such as EXTRAS=torch.
EXTRAS ?=
# Any text: test runs the tests marked slow too.
SLOW ?=
# Any text: with SLOW, what takes long beside tests that say nearly the same, too.
THOROUGH ?=
# Any text: serve's model has random weights, and nothing is downloaded.
RANDOM ?=
# Options of serve and loadtest: `make serve ARGS=--help` lists them.
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PREFILLTUNE := $(BIN)/prefilltune

comma := ,
empty :=
space := $(empty) $(empty)

COMMON := --target '$(TARGET)' $(if $(ARCH),--arch $(ARCH)) $(if $(MODEL),--model '$(MODEL)') \
	$(foreach shape,$(SHAPES),--shape $(shape)) \
	$(if $(DTYPE),--dtype $(DTYPE)) $(if $(DATABASE),--database '$(DATABASE)')
SEARCH := $(if $(TRIALS),--trials $(TRIALS)) $(if $(BUDGET),--budget $(BUDGET)) \
	$(if $(SEED),--seed $(SEED))
# What a target needs besides TVM.
NEEDS := report $(if $(findstring cuda,$(TARGET))$(findstring nvidia,$(TARGET)),cuda)
LENGTHS := $(foreach lens,$(LENS),--lens $(lens))

.PHONY: setup tune sweep compare build report docs serve loadtest test lint clean
.DEFAULT_GOAL := help

help: ## what there is
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile

# One stamp for each set of extras: switching between targets installs nothing twice. Python compiles
# what it imports, far less than pip would compile.
define install
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@for extra in $(1) $(subst $(comma), ,$(EXTRAS)); do \
	  stamp=$(VENV)/.extra-$$extra; \
	  if [ ! -f $$stamp ] || [ pyproject.toml -nt $$stamp ]; then wanted="$$wanted,$$extra"; fi; \
	done; \
	base=$(VENV)/.extra-base; \
	if [ -n "$$wanted" ] || [ ! -f $$base ] || [ pyproject.toml -nt $$base ]; then \
	  echo "installing prefilltune[$${wanted#,}] into $(VENV)"; \
	  $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -e ".[$${wanted#,}]" && \
	  for extra in base $$(echo "$$wanted" | tr ',' ' '); do touch $(VENV)/.extra-$$extra; done; \
	fi
endef

setup: ## install into .venv (EXTRAS=torch adds PyTorch to the comparison)
	$(call install,report)

tune: ## search for fast kernels (MODEL, SHAPES, TARGET, TRIALS, BUDGET, LENS, DATABASE)
	$(call install,$(NEEDS))
	@$(PREFILLTUNE) tune $(if $(SHAPES),$(COMMON),$(COMMON) --shape 1x128) $(SEARCH) $(firstword $(LENGTHS)) $(word 2,$(LENGTHS))

compare: ## tuned kernels against everything else (MODEL, SHAPES, TARGET, LENS, DATABASE, AGAINST)
	$(call install,$(NEEDS))
	@$(PREFILLTUNE) compare $(COMMON) $(LENGTHS) $(if $(AGAINST),--against '$(AGAINST)')

sweep: ## which tuned kernel serves which shapes, by measurement (MODEL, SHAPES, TARGET, LENS)
	$(call install,$(NEEDS))
	@$(PREFILLTUNE) sweep $(COMMON) $(LENGTHS)

build: ## one shared library of a model's tuned kernels (MODEL, SHAPES, TARGET, LENS, OUTPUT)
	$(call install,$(NEEDS))
	@$(PREFILLTUNE) build $(COMMON) $(firstword $(LENGTHS)) $(word 2,$(LENGTHS)) --output '$(OUTPUT)'

report: ## one page of what compare has measured on every target; no GPU needed (DATABASE, AGAINST)
	$(call install,report)
	@$(PREFILLTUNE) report $(if $(filter command line environment,$(origin TARGET)),--target '$(TARGET)') $(if $(DATABASE),--database '$(DATABASE)') $(if $(AGAINST),--against '$(AGAINST)')

docs: build/report/report.html ## this documentation as a site, every link checked; in build/docs
	$(call install,docs)
	@$(BIN)/sphinx-build -q -E -W --keep-going -b html docs build/docs
	@echo "open file://$(CURDIR)/build/docs/index.html"

build/report/report.html: $(wildcard database/records/*/*.json)
	$(call install,report)
	@$(PREFILLTUNE) report --database database/records --output build/report

serve: ## embeddings of a model over HTTP, on packed sequences (MODEL, RANDOM, ARGS)
	$(call install,serve)
	@$(BIN)/python -m examples.serve '$(MODEL)' $(if $(RANDOM),--random) $(ARGS)

loadtest: ## the server under load, packed beside SDPA on padded batches; random weights (MODEL, ARGS)
	$(call install,serve)
	@$(BIN)/python -m examples.serve.load_test --model '$(MODEL)' $(ARGS)

test: ## everything that needs no GPU and is quick (SLOW=1: what is slow too; THOROUGH=1: all)
	$(call install,dev report cuda)
	@$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal $(if $(SLOW)$(THOROUGH),--slow) $(if $(THOROUGH),--thorough)

lint: ## ruff and pyright
	$(call install,dev report cuda)
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/pyright

clean: ## remove what make made, except tuned records
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
