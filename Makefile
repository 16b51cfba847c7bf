# The front door. `make run` and `make test` need Python >= 3.11 and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
GENERATED := clients/python/fleetplane/v1
PROTOS := $(wildcard protos/fleetplane/v1/*.proto)

.DEFAULT_GOAL := help
.PHONY: help install run demo test check format lint types contracts protos protos-fresh breaking docs docs-reference bench fuzz lock clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml requirements/dev.txt clients/python/pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Fleetplane needs Python >= 3.11, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e clients/python -e .
	touch $(STAMP)

install: $(STAMP) ## Make the environment in .venv from the locked versions

run: $(STAMP) ## Serve on 127.0.0.1:50051 with the embedded store
	exec $(BIN)/fleetplane serve

demo: $(STAMP) ## Start 50 real agents against a daemon of their own and watch them
	exec $(BIN)/fleetplane demo --agents 50

test: $(STAMP) ## Run all tests
	$(BIN)/python -m pytest -n 2 --dist loadgroup

check: $(STAMP) lint types contracts protos-fresh breaking docs ## Everything but the tests: format, lint, types, imports, protos, docs

format: $(STAMP) ## Rewrite the sources in the one format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/buf format -w

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/buf format --diff --exit-code
	$(BIN)/buf lint

types: $(STAMP)
	$(BIN)/mypy controlplane clients/python/fleetplane clients/python/fleetplane_policy clients/python/fleetplane_prompts tests
	$(BIN)/pyright tests/typing

contracts: $(STAMP)
	$(BIN)/lint-imports

protos: $(STAMP) ## Generate messages and stubs from protos/
	$(BIN)/python -m grpc_tools.protoc -I protos \
	  --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
	  --python_out=clients/python --mypy_out=clients/python \
	  --grpc_python_out=clients/python --mypy_grpc_out=async_only:clients/python $(PROTOS)

protos-fresh: protos
	git diff --exit-code -- $(GENERATED)
	test -z "$$(git ls-files --others --exclude-standard -- $(GENERATED))"

breaking: $(STAMP)
	sh scripts/buf-breaking.sh $(BIN)/buf

docs-reference: $(STAMP) ## Write docs/settings.md from the settings
	$(BIN)/python scripts/settings_reference.py

docs: $(STAMP)
	$(BIN)/python scripts/settings_reference.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(STAMP) ## Measure against the floor; results in bench-results/
	$(BIN)/python -m tests.bench

fuzz: $(STAMP) ## Send garbage for FUZZ_SECONDS, 600 by default
	$(BIN)/python scripts/fuzz.py

lock: ## Resolve the newest allowed versions into requirements/
	$(BIN)/python -m pip install --quiet uv==0.13.9
	$(BIN)/uv pip compile pyproject.toml --group dev --universal --generate-hashes --no-emit-index-url --no-emit-package fleetplane-client --custom-compile-command 'make lock' --quiet --upgrade -o requirements/dev.txt
	$(BIN)/uv pip compile pyproject.toml --universal --generate-hashes --no-emit-index-url --no-emit-package fleetplane-client --custom-compile-command 'make lock' --quiet --constraint requirements/dev.txt -o requirements/run.txt

clean: ## Remove everything that is made
	rm -rf $(VENV) site bench-results .mypy_cache .ruff_cache .hypothesis .coverage
