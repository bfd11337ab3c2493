# make demo   sets up a server-only environment (no torch) and shows what an agent sees of a real SAE
# make test   sets up everything and passes the tests
PYTHON ?= python3
VENV ?= .venv
DEMO_VENV ?= .venv-demo
STORE ?= demo-store
PIP_FLAGS ?= --quiet --disable-pip-version-check
BIN = $(VENV)/bin

.PHONY: demo test check mcpb conformance bench bench-storage clean

demo: $(STORE)/manifest.json
	$(DEMO_VENV)/bin/saeinterp label import labels/pycode.jsonl --store $(STORE)
	$(DEMO_VENV)/bin/saeinterp demo --store $(STORE)

$(STORE)/manifest.json: $(DEMO_VENV)/ready
	rm -rf $(STORE)
	$(DEMO_VENV)/bin/saeinterp-pipeline import bundle examples/pycode/bundle --out $(STORE)

$(DEMO_VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DEMO_VENV)
	$(DEMO_VENV)/bin/pip install $(PIP_FLAGS) -c constraints.txt -e .
	touch $@

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(PIP_FLAGS) -c constraints.txt -e '.[pipeline,train,dev]'
	touch $@

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# the server as an MCP bundle, which Claude Desktop installs
mcpb:
	$(PYTHON) packaging/make_mcpb.py saeinterp.mcpb

# the protocol's own checkers, from npm (needs node, network to the npm registry)
conformance: $(VENV)/ready
	$(BIN)/python -m tests.conformance.run

bench: $(VENV)/ready $(STORE)/manifest.json
	$(BIN)/python -m benchmarks.tools --store $(STORE)

# draws S1 and S2 (60 and 100 million activations), imports them and measures; about 8 GB of disk and half an hour
bench-storage: $(VENV)/ready
	$(BIN)/python -m benchmarks.storage --world S1 --world S2 --growth --write docs/performance.md

clean:
	rm -rf $(VENV) $(DEMO_VENV) $(STORE) .conformance .claude-code saeinterp.mcpb .pytest_cache .mypy_cache .ruff_cache
