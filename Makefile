# `make dissect` and `make test` set up what they need; both use the environment .venv.
PYTHON ?= python3
OUT ?= out/sample
STORE ?= clip-dissect-store
BIN := .venv/bin
READY := .venv/ready

.PHONY: dissect test lint format

dissect: $(READY)
	$(BIN)/clip-dissect sample $(OUT)/images
	$(BIN)/clip-dissect run --target sample --layers 'block*,head' --probe $(OUT)/images --concepts sample \
		--clip sample --truth sample --store $(STORE) --out $(OUT)

# Three at a time, also on two cores: tests of servers and of what is killed wait more than they work.
test: $(READY)
	$(BIN)/python -m pytest -n 3 --dist loadscope --no-loadscope-reorder

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)
