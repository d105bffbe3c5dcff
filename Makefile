# `make demo` forms a group of real processes; `make test` runs the tests. Both need only Python 3.11 or newer.
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

# What is documented of the two packages: their public rooms.
API := wireproto $(addprefix wireproto.,errors messages schema session session.handshake session.seal \
  codec.frame codec.link codec.tensor jaccl jaccl.topology conformance conformance.plugin fuzzing \
  $(addprefix testing.,encodings fixed_keys malformed requirements strategies vectors)) \
  bootstrap $(addprefix bootstrap.,link.sessions link.transport up)

.DEFAULT_GOAL := help
.PHONY: help demo test check conform mutants bench fuzz planted api spec spec-coverage vectors kaitai campaign campaign-quick soak hostile \
  coverage mutation clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile

# The newest Python from 3.11 on; empty where there is none.
FIND_PYTHON = for p in python3.14 python3.13 python3.12 python3.11 python3 python; do \
	  "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$p"; break; }; \
	done

$(BIN)/python:
	@python=$$($(FIND_PYTHON)); \
	if [ -z "$$python" ]; then \
	  echo "make: no Python 3.11 or newer on PATH. Install one (macOS: brew install python@3.13; Debian: apt-get install python3 python3-venv) and run make again." >&2; exit 1; \
	fi; \
	"$$python" -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "make: $$python could not make a virtual environment. On Debian: apt-get install python3-venv, and run make again." >&2; exit 1; }

# One stamp per set of extras: an install is repeated only when pyproject.toml changes.
$(VENV)/.%-installed: pyproject.toml | $(BIN)/python
	@echo "Installing cluster-wireproto[$*] into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]' || { \
	  echo "make: the install failed (see above). It needs a network, or a pip index given by PIP_INDEX_URL, once; then run make again." >&2; exit 1; }
	@touch $@

demo: $(VENV)/.bootstrap-installed ## Form a group of two real processes (ARGS="--ranks 4")
	@$(BIN)/jaccl-bootstrap demo $(ARGS)

test: $(VENV)/.dev-installed ## Run the test suite (ARGS="-k link")
	@$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

check: $(VENV)/.dev-installed ## Run the static checks: lint, format, types, import contracts, dead code
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/vulture

# Whether tests pass is for `make test` to say: a measured process has more to write at its end than some tests expect,
# and one that is killed leaves a file that does not count.
coverage: $(VENV)/.dev-installed ## Measure the branch coverage of wireproto, its tools apart, and of bootstrap
	@$(BIN)/coverage erase
	-@$(BIN)/coverage run -m pytest -n auto tests/wireproto tests/bootstrap $(ARGS)
	-@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report --include='wireproto/*' --fail-under=100; core=$$?; \
	  $(BIN)/coverage report --include='bootstrap/*' --fail-under=95 && exit $$core

mutation: $(VENV)/.dev-installed ## Change codec, handshake, seal and session in small ways; list what no test notices
	@$(BIN)/python -m tests.mutation $(ARGS)

conform: $(VENV)/.dev-installed ## Try the JavaScript peer on the whole conformance suite, ten times (ARGS="--runs 1 --busy")
	@$(BIN)/python -m tests.wireproto.conformance.javascript $(ARGS)

mutants: $(VENV)/.dev-installed ## Try mutants of the reference peers on each conformance case
	@$(BIN)/python -m tests.wireproto.conformance.matrix

bench: $(VENV)/.dev-installed ## Measure codec, seal and session against what is in them (ARGS=--quick)
	@$(BIN)/python tests/benchmarks $(ARGS)

fuzz: $(VENV)/.dev-installed ## Run the harness of each layer, ten minutes each (ARGS="--seconds 5")
	@for layer in link frame schema handshake seal session inspection device_file bootstrap.fuzzing:hostfile_harness; do \
	  $(BIN)/wireproto fuzz run "$$layer" --seconds 600 $(ARGS) || exit; \
	done

planted: $(VENV)/.dev-installed ## Count the planted faults that fuzzing finds with each of three seeds (ARGS=--quick)
	@$(BIN)/python -m tests.wireproto.fuzzing.planted $(ARGS)

api: $(VENV)/.dev-installed ## Make the API reference from the docstrings, in build/api
	@$(BIN)/python -W error -m pdoc --output-directory build/api $(API)

campaign: $(VENV)/.dev-installed ## Strike 1,000 faults at real pairs of ranks (ARGS="--seed 7 --only ready:kill")
	@$(BIN)/python -m tests.campaign $(ARGS)

campaign-quick: $(VENV)/.dev-installed ## The same with 100 faults and short times
	@$(BIN)/python -m tests.campaign --faults 100 --brisk $(ARGS)

soak: $(VENV)/.dev-installed ## Sessions at full rate for 10 minutes, then 300 bootstraps (ARGS="--seconds 60")
	@$(BIN)/python -m tests.campaign.soak $(ARGS)

hostile: $(VENV)/.dev-installed ## A million bad inputs for live ranks (ARGS="--inputs 20000")
	@$(BIN)/python -m tests.campaign.hostile $(ARGS)

spec: $(VENV)/.dev-installed ## Draw what spec/protocol.md has drawn, register its rules, fill the dissector's tables, anew
	@$(BIN)/python -m spec.tools.diagram spec/protocol.md
	@$(BIN)/python -m spec.tools.requirements spec/protocol.md
	@$(BIN)/python -m spec.tools.dissector spec/cluster_link.lua

spec-coverage: $(VENV)/.dev-installed ## Show the tests, vectors and conformance cases that name each rule of spec/protocol.md
	@$(BIN)/python -m spec.tools.coverage

vectors: $(VENV)/.dev-installed ## Make the test vectors of spec/vectors anew
	@$(BIN)/python -m tests.vectors.generate

kaitai: | $(BIN)/python ## Install Kaitai's compiler, for the tests that need it (needs node and npm)
	@npm install --loglevel=error --no-audit --no-fund --no-save --no-package-lock --prefix $(VENV)/kaitai kaitai-struct-compiler@0.11.0

clean: ## Remove everything that make made
	@rm -rf $(VENV) .benchmarks .coverage* fuzz-findings build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
