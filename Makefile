# Every command of the project. GNU make; nothing needed before the first call but Python.
#   make PYTHON=python3.12 ...    another interpreter (used when .venv is first made)

PYTHON  ?= python3
PROFILE ?= course
DEVICE  ?=

VENV  := .venv
BIN   := $(VENV)/bin
TOOL  := $(VENV)/.uv
READY := $(VENV)/.ready
PEERS := $(VENV)/.peers
BROWSER := chromium-headless-shell fonts-dejavu-core
GRADER := $(VENV)-nbgrader/.ready
# Tests run side by side, a process a core: tests/conftest.py says which must stay together.
WORKERS ?= -n logical --dist loadfile --no-loadscope-reorder
# Python keeps what it has compiled, whatever the environment says: or each process of the tests
# compiles PyTorch's sources anew, in seconds.
unexport PYTHONDONTWRITEBYTECODE
# uv trusts the certificates that the system trusts, as git and curl do (a proxy may have its own).
export UV_SYSTEM_CERTS ?= 1
MIN_PYTHON := $(shell sed -n 's/^requires-python = ">=\(.*\)"/\1/p' pyproject.toml)

.PHONY: help env report data notebooks lab site handouts handouts-check slides bench test mutants size browser chromium check lock clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

env: $(READY) ## only make the environment, .venv (every target below does so when needed)

report: $(READY) ## rebuild the report (PROFILE=smoke|course|full, DEVICE=cpu|cuda)
	$(BIN)/rvlib report --profile $(PROFILE) $(if $(DEVICE),--device $(DEVICE))

data: $(READY) ## fetch and verify CIFAR-10
	$(BIN)/rvlib data

notebooks: $(READY) ## run the notebooks and write them back with their outputs
	$(BIN)/rvlib notebooks

lab: $(READY) ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab $$(test "$$(id -u)" -ne 0 || echo --allow-root) --LabApp.default_url=/lab/tree/notebooks

site: $(READY) ## write playground, notebooks, report and API as static pages, build/site/index.html
	$(BIN)/rvlib site

handouts: $(READY) ## write the notebooks for students, solved, and for nbgrader, build/handouts
	$(BIN)/rvlib handouts

slides: $(READY) ## write the notebooks as slides, build/slides
	$(BIN)/rvlib slides

handouts-check: $(GRADER) ## try the handouts with nbgrader itself, in an environment of its own
	$(BIN)/python -m tests.nbgrader_check $(VENV)-nbgrader/bin

bench: $(PEERS) ## measure the speed of attacks, votes and training beside other libraries
	$(BIN)/python -m benchmarks $(if $(DEVICE),--device $(DEVICE))

test: check chromium $(PEERS) ## make check, then every test, doctest and notebook, some in a browser
	$(BIN)/rvlib data
	$(BIN)/pytest --nbval-lax --nbval-current-env $(WORKERS)

mutants: $(READY) ## plant faults in a copy of the library, one at a time; a test must see each
	$(BIN)/python -m tests.mutants

size: $(READY) ## count lines of code, the longest functions, the functions in a call of pgd
	$(BIN)/python -m benchmarks.size

browser: chromium ## only the tests in a real JupyterLab and Chromium
	$(BIN)/pytest -m browser tests/browser

chromium: $(READY) ## find a Chromium for the tests (Debian's is installed where that is allowed)
	@found() { $(BIN)/python -m tests.browser.chromium; }; \
	if ! found >/dev/null 2>&1 && [ "$$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then \
	    echo "apt-get install $(BROWSER)"; \
	    { apt-get update && apt-get install -y $(BROWSER); } >/dev/null 2>&1; \
	fi; \
	found

check: $(READY) ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lock: $(TOOL) ## remake requirements.lock from pyproject.toml (UPGRADE=1 takes newer versions)
	$(BIN)/uv pip compile pyproject.toml --quiet --universal --fork-strategy fewest \
	    --python-version $(MIN_PYTHON) --extra course --extra dev $(if $(UPGRADE),--upgrade) \
	    --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' --output-file requirements.lock

clean: ## remove all that make made: .venv, build/ and caches
	rm -rf $(VENV) $(VENV)-nbgrader build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find rvlib tests benchmarks notebooks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# The environment, in two steps: uv ($(TOOL)), then all of requirements.lock ($(READY)).
# $(TOOL) is away while a step runs and comes back last, so a half-made environment is made anew.
# It holds the checkout's path: an environment that was moved or copied is made anew, too.
ifneq ($(shell cat $(TOOL) 2>/dev/null),$(CURDIR))
.PHONY: $(TOOL)
endif

$(READY): $(TOOL) pyproject.toml requirements.lock
	@rm -f $(TOOL)
	mkdir -p "$$($(BIN)/uv cache dir)" 2>/dev/null || export UV_NO_CACHE=1; \
	$(BIN)/uv pip sync --quiet --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --no-cache --python $(BIN)/python --no-deps --no-build-isolation -e .
	@echo '$(CURDIR)' > $(TOOL)
	@touch $@

# Other libraries of attacks, to compare with. The sync above takes them away again.
$(PEERS): $(READY) requirements-peers.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -r requirements-peers.lock
	@touch $@

# nbgrader, apart from the course: its versions must not be those of the notebooks.
$(GRADER): $(READY)
	$(BIN)/uv venv --quiet --clear $(VENV)-nbgrader
	$(BIN)/uv pip install --quiet --python $(VENV)-nbgrader/bin/python nbgrader==0.9.6
	@touch $@

$(TOOL):
	@die() { echo "error: $$*" >&2; exit 1; }; \
	can() { $(PYTHON) -c "$$1" 2>/dev/null; }; \
	can '' || die '$(PYTHON) not found: install Python $(MIN_PYTHON) or newer, or name it: make PYTHON=/path/to/python3'; \
	can 'import sys; sys.exit(sys.version_info[:2] < tuple(map(int, "$(MIN_PYTHON)".split("."))))' || \
	    die "$$($(PYTHON) --version 2>&1) is too old: name Python $(MIN_PYTHON) or newer, as in make PYTHON=python$(MIN_PYTHON)"; \
	if ! can 'import ensurepip, venv'; then \
	    package=python$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv; \
	    if [ "$$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then \
	        echo "apt-get install $$package"; \
	        { apt-get update && apt-get install -y --no-install-recommends $$package; } >/dev/null 2>&1; \
	    fi; \
	    can 'import ensurepip, venv' || \
	        die "$(PYTHON) has no venv module: install it (Debian, Ubuntu: sudo apt-get install $$package)"; \
	fi
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    "$$(grep -s '^uv==' requirements.lock || echo uv)"
	@echo '$(CURDIR)' > $@
