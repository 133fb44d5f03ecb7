# Every target sets itself up: .venv holds exactly what requirements.lock names, and kvfs, editable.
# ARGS go through to the command: make serve ARGS="--port 9000", make test ARGS="-k name".

VENV  := .venv
BIN   := $(VENV)/bin
READY := $(VENV)/.ready
PIP   := $(BIN)/python -m pip --disable-pip-version-check --quiet
ARGS  ?=

# Tests start a thousand processes, each of which would compile everything again.
unexport PYTHONDONTWRITEBYTECODE

# The first of these that runs and is new enough; `make PYTHON=...` overrides it.
PYTHON ?= $(firstword $(foreach p,python3.11 python3 python3.12 python3.13 python3.14,\
	$(shell $(p) -c 'import sys; sys.version_info >= (3, 11) and print("$(p)")' 2>/dev/null)))

.DEFAULT_GOAL := help
.PHONY: help serve test check format examples reference stores bench fuzz soak soak-tests lock clean

help:
	@echo "targets: serve test check format examples reference stores bench fuzz soak soak-tests lock clean"
	@echo "  fuzz        made-up inputs for all that reads what others write"
	@echo "  soak        servers put through faults, for ten minutes; more by ARGS=\"--minutes 60\""
	@echo "  soak-tests  the tests that take too long for test"

# exec: a signal sent to the recipe's process reaches the server itself.
serve: $(READY)
	@exec $(BIN)/kvfs serve $(ARGS)

# Two for each core: most tests wait for disks, watchers and servers for much of their time.
WORKERS ?= $(shell expr 2 \* $$(getconf _NPROCESSORS_ONLN))

test: $(READY)
	@$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

# What each run comes to is kept in build/soak.jsonl, where runs add up.
soak: $(READY)
	@$(BIN)/python -m tests.soak $(ARGS)

soak-tests: $(READY)
	@$(BIN)/python -m pytest -m soak --timeout=3600 $(ARGS)

# Made-up inputs for all that reads what others write: make fuzz ARGS="--inputs 1000000 --seed 7".
fuzz: $(READY)
	@$(BIN)/python -m tests.fuzz $(ARGS)

check: $(READY)
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(READY)
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# The answers in server/openapi/stories/, filled in and brought up to date by a real server.
examples: $(READY)
	@$(BIN)/python -m tests.openapi.telling

# What the documents say of commands and options, from the commands themselves.
reference: $(READY)
	@$(BIN)/python -m tests.docs.reference

# Small stores of a format of files that is new, for later versions to read; see fixtures/README.md.
stores: $(READY)
	@$(BIN)/python -m tests.upgrades.making

# kvfs beside its peers: make bench ARGS=--short takes less than a minute, and writes nothing down.
ARGS_OF_BENCH = $(or $(ARGS),--write docs/benchmarks.md)

bench: $(READY)
	@$(BIN)/python -m benchmarks $(ARGS_OF_BENCH)

# The newest versions that pyproject.toml allows, resolved in a fresh environment on the oldest supported
# Python, where the most conditional dependencies apply.
lock:
	@rm -rf build/lock
	@$(call make-venv,build/lock)
	@build/lock/bin/python -m pip --disable-pip-version-check --quiet install --editable '.[dev]'
	@{ echo "# Every package that kvfs and its tools need, pinned. Written by \`make lock\`."; \
	   build/lock/bin/python -m pip --disable-pip-version-check freeze --exclude-editable; } \
		> build/lock/requirements.lock
	@mv build/lock/requirements.lock requirements.lock
	@rm -rf build/lock

clean:
	@rm -rf $(VENV) build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find kvfs server tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is the last step, so an interrupted set-up starts again.
$(READY): pyproject.toml requirements.lock
	@$(call make-venv,$(VENV))
	@echo "Installing kvfs and its tools into $(VENV)" >&2
	@$(PIP) install --requirement requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

define make-venv
python="$(PYTHON)"; \
if [ -z "$$python" ]; then \
	echo "kvfs needs Python 3.11 or newer; found none. Install it, or name it: make PYTHON=/path/to/python" >&2; \
	exit 1; \
elif ! "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	echo "kvfs needs Python 3.11 or newer; $$python is not." >&2; \
	exit 1; \
elif ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	echo "$$python cannot make virtual environments. On Debian or Ubuntu: apt-get install python3-venv" >&2; \
	exit 1; \
fi; \
"$$python" -m venv $(1)
endef
