# Two commands are all that a fresh clone needs: `make demo` and `make test`.
# Each uses the virtual environment that is active, or makes its own in .venv.

PYTHON ?= python3
ifdef VIRTUAL_ENV
ENV := $(VIRTUAL_ENV)
else
ENV := .venv
endif
RUN := $(ENV)/bin/python
STAMP := $(ENV)/.mergery-installed

.PHONY: demo test check setup parity fuzz kill scaling zoo bench families clean
.DEFAULT_GOAL := test

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(RUN) || $(PYTHON) -m venv $(ENV)
	$(RUN) -m pip install -q -c constraints.txt torch==2.13.0
	$(RUN) -m pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	$(RUN) -m demo

test: setup
	$(RUN) -m pytest -n auto --dist loadscope

check: setup
	$(RUN) -m ruff check src tests benchmarks demo
	$(RUN) -m ruff format --check src tests benchmarks demo
	$(RUN) -m pyright --pythonpath $(RUN)

parity: setup .parity/.installed
	$(RUN) -m tests.parity --mergekit-python .parity/bin/python

.parity/.installed:
	$(PYTHON) -m venv .parity
	.parity/bin/pip install -q torch==2.13.0
	.parity/bin/pip install -q mergekit==0.1.5
	@touch $@

fuzz: setup
	$(RUN) -m tests.fuzz --count 100000 --seed 0
	@if $(RUN) -c 'import atheris' 2>/dev/null; then \
		$(RUN) -m tests.fuzz.coverage -max_total_time=300; \
	else \
		echo "No fuzzing that follows coverage: it needs pip install 'mergery[fuzz]'."; \
	fi

kill: setup
	$(RUN) benchmarks/kill.py --kills 200

scaling: setup
	$(RUN) benchmarks/scaling.py --write docs/scaling.md

zoo: setup
	$(RUN) -m benchmarks.zoo --write docs/which-method.md

families: setup
	$(RUN) benchmarks/families.py --write docs/families.md

bench: setup .parity/.installed
	$(RUN) benchmarks/speed.py --mergekit-python .parity/bin/python

clean:
	rm -rf .venv .parity demo/models demo/merged
