# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
TORCH  ?= 2.13.0
VENV   := .venv
BIN    := $(VENV)/bin
PANEL  := quanttaas_jupyter/labextension/package.json

.PHONY: check demo docs test lint bench clean

$(VENV)/.torch:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==$(TORCH)
	touch $@

# What the demo needs and no more.
$(VENV)/.demo: pyproject.toml | $(VENV)/.torch
	$(BIN)/python -m pip install --quiet -e '.[lab,examples]' torch==$(TORCH)
	touch $@

$(VENV)/.installed: pyproject.toml | $(VENV)/.torch
	$(BIN)/python -m pip install --quiet -e '.[test]' torch==$(TORCH)
	# An editable install leaves out what lies outside of Python: the panel and its routes.
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/jupyter-builder develop --overwrite .
	ln -sf $(CURDIR)/labextension/jupyter-config/jupyter_server_config.d/*.json $(VENV)/etc/jupyter/jupyter_server_config.d/
	touch $@ $(VENV)/.demo

labextension/node_modules: labextension/yarn.lock $(VENV)/.installed
	cd labextension && PATH="$(CURDIR)/$(BIN):$$PATH" jlpm install --immutable
	touch $@

# The install builds it where it is missing; this, where it is older than its source.
$(PANEL): $(shell find labextension/src labextension/style labextension/schema -type f) | labextension/node_modules
	cd labextension && PATH="$(CURDIR)/$(BIN):$$PATH" jlpm build
	touch $@

demo: $(VENV)/.demo
	$(BIN)/python examples/demo.py --out artifacts

lint: $(VENV)/.installed labextension/node_modules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd labextension && PATH="$(CURDIR)/$(BIN):$$PATH" jlpm lint

# For every change: what is fast.
check: lint
	cd labextension && PATH="$(CURDIR)/$(BIN):$$PATH" jlpm test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -q -n 2 --dist loadfile -m "not slow and not browser and not ray"

# Two workers share the tests; with a thread each they leave each other's core alone. A Ray cluster and the browser have
# the machine to themselves: beside other work their clocks run out.
# The browser tests need Chromium: a system's own, else the one that Playwright brings.
test: lint $(PANEL)
	$(BIN)/python tests/browser/find_chromium.py || $(BIN)/python -m playwright install chromium
	cd labextension && PATH="$(CURDIR)/$(BIN):$$PATH" jlpm test
	MUTATIONS=10000 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n 2 --dist loadfile -m "not browser and not ray"
	$(BIN)/python -m pytest tests -m ray
	$(BIN)/python -m pytest tests -m browser
	QUANTTAAS_STORE=$(CURDIR)/artifacts/examples/store QUANTTAAS_RUNTIME_DIR=$(CURDIR)/artifacts/examples/engine \
	$(BIN)/python -m pytest --nbval-lax examples --timeout 600

# Warnings are errors; the site lands in artifacts/site.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Two hours and a half on two cores; needs npm, and Debian's dataset-fashion-mnist.
bench: $(VENV)/.installed
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python -m benchmarks.architectures
	$(BIN)/python benchmarks/auto.py
	$(BIN)/python benchmarks/auto_vs_grid.py
	$(BIN)/python benchmarks/cluster.py
	$(BIN)/python benchmarks/panel.py
	$(BIN)/python benchmarks/runtimes.py

clean:
	rm -rf $(VENV) artifacts .pytest_cache .mypy_cache .ruff_cache
