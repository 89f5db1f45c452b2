# Needs Python 3.10 or newer, make, and a network or a pip cache for the first installation.
# `PYTHON=python3.12 make test` picks the interpreter.
PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
# What an installation depends on: the start-up hook is copied, even by an editable one.
SOURCES = pyproject.toml constraints.txt autoload/_anomalib_nagl_hook.py autoload/anomalib_nagl.pth \
	autoload/anomalib_nagl.start

# One process a core, at most four: each holds torch. The tests of a file stay in one process, which makes what they
# share once; files with slow tests come first (tests/conftest.py).
PARALLEL = --numprocesses logical --maxprocesses 4 --max-worker-restart 0 --dist loadfile --no-loadscope-reorder

.PHONY: demo test quick browser screenshots faults docs lint clean test-lowest test-newest wheel-check

demo: $(VENV)/.installed
	$(BIN)/python -W ignore examples/quickstart.py

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(PARALLEL)

# What is left out is marked: tests that take longer than ten seconds.
quick: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

# The oldest releases that pyproject.toml allows on the oldest Python, and the newest on the newest: environments of
# their own, 7 GB each, apart from that of `make test`. `make test-lowest TESTS="tests/bank tests/core"` runs a part.
PYTHON_LOWEST ?= python3.10
PYTHON_NEWEST ?= python3.13
TESTS ?=

test-lowest:
	$(PYTHON_LOWEST) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install -c constraints-lowest.txt -e ".[test,cluster]"
	.venv-lowest/bin/python -m pytest $(PARALLEL) $(TESTS)

test-newest:
	$(PYTHON_NEWEST) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --upgrade --upgrade-strategy eager -e ".[test,cluster]"
	.venv-newest/bin/python -m pytest $(PARALLEL) $(TESTS)

# What would be given away: built, looked at, installed alone into an environment of its own, README's commands run there.
wheel-check: $(VENV)/.installed-test
	rm -rf dist
	$(BIN)/python -m build
	PYTHONPATH=tests $(BIN)/python -m support.wheel_check dist/*.whl

# The tests of the page drive an installed Chromium and are skipped without one. axe-core, which judges whether everybody
# can use the page, comes from npm and is no part of the package.
AXE = 4.14.1
browser: $(VENV)/.installed-test $(VENV)/axe-core/axe-$(AXE)

$(VENV)/axe-core/axe-$(AXE):
	mkdir -p $(@D)
	cd $(@D) && npm pack --silent axe-core@$(AXE) && tar -xzf axe-core-$(AXE).tgz --strip-components 1 package/axe.min.js
	rm $(@D)/axe-core-$(AXE).tgz
	touch $@

# The pictures of the page in README and manual, made by a test on drawn images.
screenshots: $(VENV)/.installed-test
	NAGL_SCREENSHOTS=$(CURDIR)/docs/images NAGL_BROWSER=required $(BIN)/python -m pytest tests/app/test_page_pictures.py tests/app/test_page_drift.py

# The whole campaign of bad and hostile inputs: about ten minutes. It writes docs/faults.md.
faults: $(VENV)/.installed-test
	PYTHONPATH=tests $(BIN)/python -m faults

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

docs: $(VENV)/.installed-test
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

# pip downloads nothing for what is already satisfied, so a missing stamp in a complete environment costs seconds.
$(VENV)/.installed: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install -c constraints.txt -e .
	touch $@

$(VENV)/.installed-test: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install -c constraints.txt -e ".[test,docs,cluster]"
	touch $@ $(VENV)/.installed

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The environment stays, it is large; its stamps go, so that the next target checks it.
clean:
	rm -rf build dist htmlcov .venv-lowest .venv-newest docs/_build .pytest_cache .ruff_cache .mypy_cache .import_linter_cache openvino_cache
	rm -f $(VENV)/.installed $(VENV)/.installed-test
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -exec rm -rf {} +
