# Two commands are all that a fresh clone needs: `make demo` and `make test`.
# Each uses the virtual environment that is active, or makes its own in .venv.

PYTHON ?= python3
ENV := $(or $(VIRTUAL_ENV),.venv)
RUN := $(ENV)/bin/python
PIP := -m pip -qq --disable-pip-version-check
STAMP := $(ENV)/.mergery-installed
SITE := NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict
OLD := Mergery needs Python 3.11 or newer, and %s is %d.%d; name another: make PYTHON=python3.13

.PHONY: demo test test-gguf check docs setup dist parity fuzz kill scaling zoo zoo-real fda bench families real clean
.DEFAULT_GOAL := test

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(or $(wildcard $(RUN)),$(PYTHON)) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("$(OLD)" % (sys.executable, v[0], v[1]))'
	@echo "Installing Mergery, torch and what tests and demo need into $(ENV): 2.4 GB, or 7 GB where the index has torch for CUDA alone (constraints.txt)."
	@test -x $(RUN) || $(PYTHON) -m venv $(ENV)
	@$(RUN) $(PIP) install 'pip>=25.1'
	@$(RUN) $(PIP) install -c constraints.txt -e '.[all]' --group dev
	@touch $@

demo: setup
	$(RUN) -m demo

test: setup
	$(RUN) -m pytest -n auto --dist loadscope

test-gguf: setup .llama/.installed
	MERGERY_LLAMA_CPP=.llama/bin/python $(RUN) -m pytest tests/run/gguf

.llama/.installed:
	@echo "Building llama.cpp from its Python package into .llama: minutes, with cmake and a compiler."
	$(PYTHON) -m venv .llama
	CMAKE_ARGS="-DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF" .llama/bin/python $(PIP) install llama-cpp-python
	@touch $@

check: setup
	$(RUN) -m ruff check src tests benchmarks demo
	$(RUN) -m ruff format --check src tests benchmarks demo
	$(RUN) -m pyright --pythonpath $(RUN)
	$(SITE) --quiet
	$(RUN) -m pytest tests/docs/test_links.py

docs: setup
	$(SITE)
	@echo "The site is in site/: open site/index.html"

dist: setup
	rm -rf dist
	$(RUN) -m build

parity: setup .parity/.installed
	$(RUN) -m tests.parity --mergekit-python .parity/bin/python

.parity/.installed:
	$(PYTHON) -m venv .parity
	.parity/bin/python $(PIP) install -c constraints.txt torch
	.parity/bin/python $(PIP) install mergekit==0.1.5
	@touch $@

fuzz: setup
	$(RUN) -m tests.fuzz --count 100000 --seed 0
	@if $(RUN) -c 'import atheris' 2>/dev/null; then \
		$(RUN) -m tests.fuzz.coverage -max_total_time=300; \
	else \
		echo "No fuzzing that follows coverage: it needs pip install 'mergery[fuzz]'."; \
	fi

kill: setup
	$(RUN) -m benchmarks.kill --kills 200

scaling: setup
	$(RUN) -m benchmarks.scaling --write docs/scaling.md

zoo: setup
	$(RUN) -m benchmarks.zoo --write docs/which-method.md

fda: setup
	$(RUN) -m benchmarks.fda

zoo-real: setup
	$(RUN) -m benchmarks.zoo --worlds real --seeds 1 --write docs/which-method.md

families: setup
	$(RUN) -m benchmarks.families --write docs/families.md

real: setup
	$(RUN) -m benchmarks.real --write docs/real.md

bench: setup .parity/.installed
	$(RUN) -m benchmarks.speed --mergekit-python .parity/bin/python

clean:
	rm -rf .venv .parity .llama .real .bench build dist site demo/models demo/merged demo/recipes demo/quick demo/merged.png
