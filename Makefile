# The two commands: `make demo` and `make test`. Python 3.11 and make are enough; everything else comes
# into .venv, every package checked against the hashes of requirements/*.lock.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; exit; }; done; echo python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
UV := $(BIN)/uv
UV_VERSION := 0.13.8

.PHONY: help venv demo test lint format lock clean

help:
	@echo 'make demo    a stand-in controller, the provisioner and a few builds, in a minute'
	@echo 'make test    the whole suite, with a table of what ran and what did not'
	@echo 'make lint    ruff, mypy, import-linter'
	@echo 'make format  let ruff rewrite the layout'
	@echo 'make lock    remake requirements/*.lock (UPGRADE=1: with the newest versions)'
	@echo 'make clean   remove .venv and the caches'

$(READY): requirements/build.lock requirements/dev.lock tools/make_venv.py
	@command -v $(PYTHON) >/dev/null || { echo 'no $(PYTHON) here; install Python 3.11 or newer, or name one: make PYTHON=…' >&2; exit 1; }
	@$(PYTHON) tools/make_venv.py $(VENV)

venv: $(READY)

demo: $(READY)
	@$(BIN)/python -m provisioner demo

test: $(READY)
	@$(BIN)/python tools/run_tests.py

# All four always run; each failure is seen at once.
lint: $(READY)
	@failed=; for check in 'ruff check' 'ruff format --check' mypy 'lint-imports --no-cache'; do \
		echo "== $$check"; $(BIN)/$$check || failed="$$failed, $$check"; done; \
	[ -z "$$failed" ] || { echo "lint failed: $${failed#, }"; exit 1; }

format: $(READY)
	$(BIN)/ruff check --fix --select I .
	$(BIN)/ruff format .

# No index host gets into the files, whatever uv is configured with here.
COMPILE = $(UV) pip compile -q --no-config --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-annotate --custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade)

lock: $(READY)
	@test -x $(UV) || $(BIN)/pip install -q --disable-pip-version-check uv==$(UV_VERSION)
	$(COMPILE) -o requirements/build.lock requirements/build.in
	$(COMPILE) -c requirements/build.lock --extra docker -o requirements/run.lock pyproject.toml
	$(COMPILE) -c requirements/build.lock -c requirements/run.lock --extra dev -o requirements/dev.lock pyproject.toml

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
