# DatastreamX. `make` alone shows what there is to do.
# Needed: Python 3.11, make, and a way to PyPI. Nothing else; everything is installed into .venv.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

# Where it is set, each of the many processes would compile all that it imports: a second or two.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := tour
.PHONY: tour demo test test-campaigns test-kafka k8s-test k8s-tools k8s-tools-lock chaos simulate bench check format lock image sbom audit schemas clean

tour: ## Show this tour
	@echo "DatastreamX: make TARGET, where TARGET is one of"
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## Run everything on this machine: boxes, aggregators, broker, BigQuery, all flows
	@$(BIN)/datastreamx demo $(ARGS)

# Pure tests share the cores; what talks to real processes has them to itself. 5: ARGS has chosen none.
test: $(INSTALLED) ## Run all tests that need nothing but Python (under 10 minutes)
	@$(BIN)/python -m pytest -n 2 --dist loadfile --ignore tests/k8s \
		-m "not (kafka or integration or demo or campaign)" $(ARGS) || [ $$? = 5 ]
	@$(BIN)/python -m pytest --ignore tests/k8s -m "(integration or demo) and not (kafka or campaign)" $(ARGS) || [ $$? = 5 ]

test-campaigns: $(INSTALLED) ## Run small fault campaigns on real processes, and one for each planted bug
	@$(BIN)/python -m pytest --ignore tests/k8s -m campaign $(ARGS)

test-kafka: $(INSTALLED) ## Run the integration suite on Apache Kafka (needs Java 17 and Maven)
	@DATASTREAMX_TEST_BROKER=kafka $(BIN)/python -m pytest --ignore tests/k8s -m "kafka or integration" $(ARGS)

k8s-tools: $(INSTALLED) ## Build and install the tools of k8s-test, once per version of them (Go 1.26; minutes)
	@$(BIN)/python -m tests.k8s.tools
	@$(BIN)/python -m tests.k8s.terraform

k8s-tools-lock: $(INSTALLED) ## Resolve the Python tools of k8s-test anew
	@$(BIN)/python -m pip install --quiet uv
	@cd tests/k8s/tools && for n in requirements supply-chain; do $(abspath $(BIN))/uv pip compile --quiet --upgrade $$n.in \
		--generate-hashes --python-version 3.11 --custom-compile-command "make k8s-tools-lock" --output-file $$n.lock; done

# What only reads shares the cores; what runs pods, images and API servers has them to itself.
k8s-test: k8s-tools ## Check all of k8s/ and the image, on a real API server and as real processes (needs root, Go 1.26)
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "not (apiserver or podlet or image)" tests/k8s $(ARGS) || [ $$? = 5 ]
	@$(BIN)/python -m pytest -m "apiserver or podlet or image" tests/k8s $(ARGS) || [ $$? = 5 ]

chaos: $(INSTALLED) ## Kill real processes under real faults: make chaos KILLS=20 SEED=1 MODE=cells BROKER=tansu
	@$(BIN)/python -m tests.chaos --kills $(or $(KILLS),20) --seed $(or $(SEED),1) --mode $(or $(MODE),cells) \
		--broker $(or $(BROKER),tansu) $(if $(CELLS),--cells $(CELLS)) $(if $(JSON),--json) $(ARGS)

simulate: $(INSTALLED) ## Run histories in virtual time against every fault: make simulate SEED=1 RUNS=10000
	@$(BIN)/python -m tests.simulation --seed $(or $(SEED),1) --runs $(or $(RUNS),1000) $(ARGS)

bench: $(INSTALLED) ## Run all benchmarks, keep results; one: make bench-state ARGS=--quick (needs Java 17 and Maven)
	@$(BIN)/python -m benchmarks $(ARGS)

bench-%: $(INSTALLED)
	@$(BIN)/python -m benchmarks.$* $(ARGS)

check: $(INSTALLED) ## Lint, types, formatting and import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy .
	@$(BIN)/lint-imports

format: $(INSTALLED) ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

schemas: $(INSTALLED) ## Write the JSON Schemas of the topics and of Terraform's tables anew
	@$(BIN)/python -m datastreamx.wire.schemas
	@$(BIN)/python -m tests.k8s.terraform.schemas

lock: $(INSTALLED) ## Resolve dependencies anew into requirements*.lock
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip compile --quiet --upgrade pyproject.toml --extra dev --generate-hashes --python-version 3.11 \
		--custom-compile-command "make lock" --output-file requirements.lock
	@# What the image needs of it: to run, and to build the project's wheel.
	@$(BIN)/uv pip compile --quiet pyproject.toml --constraint requirements.lock --generate-hashes \
		--python-version 3.11 --custom-compile-command "make lock" --output-file requirements-run.lock
	@echo setuptools | $(BIN)/uv pip compile --quiet - --constraint requirements.lock --generate-hashes \
		--python-version 3.11 --custom-compile-command "make lock" --output-file requirements-build.lock

image: $(INSTALLED) ## Build the container image datastreamx:VERSION (needs podman): make image ARGS="--build-arg BASE=..."
	@podman build --file Containerfile --tag datastreamx:$(VERSION) --build-arg VERSION=$(VERSION) \
		--build-arg REVISION=$$(git rev-parse HEAD) $(ARGS) .

sbom: $(INSTALLED) ## Write the image's CycloneDX bill of materials into build/; with Debian's packages: make sbom ARGS="--image NAME"
	@$(BIN)/python -m tests.k8s.image.sbom $(ARGS)

audit: $(INSTALLED) ## Look for known vulnerabilities of the image's packages; code 1: found, 4: no service answered
	@$(BIN)/python -m tests.k8s.image.audit $(ARGS)

clean: ## Remove the environment and everything that was made
	@rm -rf $(VENV) build dist *.egg-info datastreamx-data tests/kafka/target benchmarks/flink/target benchmarks/quix/.venv

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "Python 3.11 is needed, found $$($(PYTHON) --version); set PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Installing into $(VENV) (about a minute, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
