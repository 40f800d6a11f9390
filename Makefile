# Every habit of the project has a target here; `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := /bin/sh

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TOOLS := .venv-deploy
TOOLS_READY := $(TOOLS)/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
RAW ?=
FILES ?=
SEEDS ?= 500
SEED ?=
NIGHTS ?=
LAB ?=

.PHONY: help setup run lab test test-servers test-all invariants lint audit format simulate-faults faults bench bench-speed bench-monitoring bench-model bench-nights bench-service wheel deploy-sbom deploy-test deploy-parts deploy-image deploy-infrastructure deploy-manifests deploy-monitoring deploy-plan deploy-apply deploy-flows deploy-promote notebooks stack repro remote pull lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-22s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv and install everything from the lock

$(READY): requirements-dev.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip sync --quiet --compile-bytecode requirements-dev.lock
	$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	touch $(READY)

$(TOOLS_READY): deploy/requirements.lock deploy/package-lock.json $(READY)
	test -x $(TOOLS)/bin/python || $(PYTHON) -m venv $(TOOLS)
	$(BIN)/uv pip sync --quiet --python $(TOOLS)/bin/python deploy/requirements.lock
	mkdir -p $(TOOLS)/npm && cp deploy/package.json deploy/package-lock.json $(TOOLS)/npm
	if command -v npm >/dev/null; then npm ci --prefix $(TOOLS)/npm --silent --ignore-scripts --no-audit --no-fund; fi
	touch $(TOOLS_READY)

run: $(READY) ## ingest, train, predict and report; RAW=DIR for real batches (training/ and prediction/)
ifeq ($(RAW),)
	WAFER_STORAGE=$${WAFER_STORAGE:-data/demo} $(BIN)/wafer run
else
	$(BIN)/wafer run --raw "$(RAW)"
endif

lab: $(READY) ## open the project in JupyterLab; LAB= takes options of it, such as --no-browser
	case "$$WAFER_STORAGE" in ""|/*|"~"*|*://*) ;; *) export WAFER_STORAGE="$$PWD/$$WAFER_STORAGE" ;; esac; \
	$(BIN)/jupyter lab --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/notebooks/first_steps.ipynb $(LAB)

test: $(READY) ## the quick tests, in random order on two processes
	$(BIN)/python -m pytest -n 2 -m "not slow"

invariants: $(READY) $(TOOLS_READY) ## the slow tests that hold what must never break
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m invariant --durations=30

test-servers: $(READY) ## tests of store and buckets on the empty servers of WAFER_TEST_MONGODB_URL and WAFER_TEST_S3_URL
	@test -n "$$WAFER_TEST_MONGODB_URL$$WAFER_TEST_S3_URL" || { echo "name servers for tests: see CONTRIBUTING.md" >&2; exit 2; }
	$(BIN)/python -m pytest -n 0 -p no:randomly tests/store tests/intake/test_bucket.py tests/intake/test_watching.py \
	tests/simulation/test_contracts.py tests/test_storage.py tests/scoring/test_exactly_once.py tests/end_to_end/test_s3.py

test-all: $(READY) $(TOOLS_READY) ## all tests, the slow ones too
	$(BIN)/python -m pytest -n 2 --dist loadgroup

WHEEL := rm -f dist/wafer-*.whl && SOURCE_DATE_EPOCH=315532800 $(BIN)/python -m hatchling build -t wheel -d dist
wheel: $(READY) ## build the wheel into dist/, the same bytes from the same files
	$(WHEEL)

SBOM := dist/wafer.cdx.json
deploy-sbom: $(READY) $(TOOLS_READY) ## the image's bill of materials (CycloneDX) and the licences of all that it holds, into dist/
	mkdir -p dist
	$(TOOLS)/bin/cyclonedx-py requirements --output-reproducible --outfile "$(SBOM)" deploy/image.lock
	$(TOOLS)/bin/pip-licenses --python=$(BIN)/python --with-system --format=csv --output-file=dist/licences.csv \
	  --packages $$(sed -n 's/^\([a-z0-9._-]*\)==.*/\1/p' deploy/image.lock)

deploy-test: $(READY) $(TOOLS_READY) ## what lies in deploy/: checked, built, run, applied and destroyed; says what it skipped
	$(BIN)/python -m pytest tests/deploy -p no:randomly --durations=15

# What pipelines call, .github/workflows and Jenkinsfile alike; deploy/README.md tells of each.
IMAGE ?= registry.example.com/wafer
CONTAINERS ?= podman
BUILD ?= --timestamp 0 --ignorefile deploy/Containerfile.dockerignore
KNOWN ?= skopeo list-tags docker://$(IMAGE)
SINCE ?= HEAD~1
ENVIRONMENT ?= staging
OVERLAY ?= eks
COMMIT ?= HEAD
PROJECT ?= /srv/wafer
TERRAFORM := terraform -chdir=deploy/terraform
CHECK := $(BIN)/python -m pytest tests/deploy -m "invariant or not slow"

deploy-parts: ## the parts that the changes since SINCE=COMMIT concern; JSON=1 as a list
	@$(PYTHON) deploy/changed.py parts $(if $(JSON),--json) "$(SINCE)"

deploy-image: $(READY) ## build the image and push it to IMAGE, unless its tag is among those that KNOWN, a command, lists
	@known="$$($(KNOWN))" || { echo "the registry does not say what it has: $(KNOWN)" >&2; exit 2; }; \
	told="$$(printf '%s' "$$known" | $(BIN)/python deploy/changed.py tag --known -)" || exit 2; \
	image="$(IMAGE):$${told% *}"; \
	case "$$told" in *" exists") echo "$$image exists"; exit 0;; esac; \
	$(WHEEL) && \
	$(CONTAINERS) build $(BUILD) --file deploy/Containerfile --build-arg COMMIT="$$(git rev-parse HEAD)" --tag "$$image" . && \
	$(CONTAINERS) push "$$image" && echo "$$image is built and pushed"

deploy-infrastructure: $(READY) $(TOOLS_READY) ## check Terraform and the hosts' playbook, without any account
	$(CHECK) -k "terraform or infrastructure or ansible"

deploy-manifests: $(READY) $(TOOLS_READY) ## render and validate all that a cluster gets, and check what the image is made of
	$(CHECK) -k "kubernetes or promote or compose or image"

deploy-monitoring: $(READY) $(TOOLS_READY) ## check the scrape config, every alert and the dashboard
	$(CHECK) -k "monitoring"

deploy-plan: ## plan the infrastructure of ENVIRONMENT into deploy/terraform/ENVIRONMENT.tfplan
	$(TERRAFORM) init -input=false -reconfigure -backend-config=environments/$(ENVIRONMENT).s3.tfbackend
	tag="$$($(PYTHON) deploy/changed.py tag)" && \
	$(TERRAFORM) plan -input=false -lock-timeout=5m -var-file=environments/$(ENVIRONMENT).tfvars -var image_tag="$$tag" -out=$(ENVIRONMENT).tfplan

deploy-apply: ## apply what `make deploy-plan` has planned for ENVIRONMENT
	$(TERRAFORM) apply -input=false -lock-timeout=5m $(ENVIRONMENT).tfplan

deploy-flows: $(READY) ## register all deployments on the server of PREFECT_API_URL, for workers whose project lies in PROJECT
	@test -n "$$PREFECT_API_URL" || { echo "PREFECT_API_URL is not set: name the server that is to know them" >&2; exit 2; }
	env PWD="$(PROJECT)" $(BIN)/prefect --no-prompt deploy --all

deploy-promote: $(READY) ## move OVERLAY to the image of COMMIT, by a commit that is pushed
	tag="$$($(BIN)/python deploy/changed.py tag "$(COMMIT)")" && source="$$(git rev-parse "$(COMMIT)")" && \
	$(BIN)/python deploy/promote.py "$(OVERLAY)" "$(IMAGE):$$tag" --source "$$source" --push

simulate-faults: $(READY) ## processes and faults in random orders, SEEDS=500 of them; SEED=7 shows one again
	$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

lint: $(READY) ## format, lint, types, and whether the lock is current and free of addresses
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python .ci/locks.py

audit: $(READY) ## known vulnerabilities of all that the lock holds, asked of PyPI; exit status 2: it could not be asked
	$(BIN)/python .ci/audit.py

format: $(READY) ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## speed of checking and storing, as ratios on this machine; FILES=400
	$(BIN)/python -m bench $(if $(FILES),--files $(FILES))

bench-speed: $(READY) ## speed of scoring, reasons, drift and training, as ratios to the bare estimators
	$(BIN)/python -m bench.speed

bench-monitoring: $(READY) ## what control charts find, how late and how often wrong, for docs/monitoring.md; RAW=DIR for real batches too
	$(BIN)/python -m bench.monitoring $(if $(RAW),--raw "$(RAW)")

bench-model: $(READY) ## the model's worth on real batches, for docs/model-card.md; RAW=DIR or WAFER_REAL_DATA
	$(BIN)/python -m bench.model $(if $(RAW),--raw "$(RAW)")
	$(BIN)/python -m bench.alarms $(if $(RAW),--raw "$(RAW)")
	$(BIN)/python -m bench.retraining $(if $(RAW),--raw "$(RAW)")

bench-nights: $(READY) ## a month of nights on real servers, with kills, for docs/operations.md; NIGHTS=3
	$(BIN)/python -m bench.nights $(if $(NIGHTS),--nights $(NIGHTS))

bench-service: $(READY) ## speed of `wafer serve` beside other servers, for docs/service.md; needs the internet
	$(BIN)/python -m bench.service --rivals

notebooks: $(READY) ## run every notebook on the synthetic fab and, with RAW=DIR or WAFER_REAL_DATA, on real batches
	$(BIN)/wafer study --storage data/notebooks/simulated
ifneq ($(or $(RAW),$(WAFER_REAL_DATA)),)
	$(BIN)/wafer study --storage data/notebooks/real --raw "$(or $(RAW),$(WAFER_REAL_DATA))"
endif
	@ls data/notebooks/*/runs/study/*.html

stack: $(READY) ## start Prefect, S3, database, MLflow and a worker on this machine; `wafer stack down` stops them
	$(BIN)/wafer stack up

repro: $(READY) ## rerun the study that dvc.yaml describes
	$(BIN)/dvc repro

remote: $(READY) ## let `dvc push` and `dvc pull` use WAFER_DVC_REMOTE (s3://bucket/prefix or a folder), on this clone alone
	@test -n "$(WAFER_DVC_REMOTE)" || { echo "WAFER_DVC_REMOTE is not set: name a bucket (s3://bucket/prefix) or a folder, \
	or compute everything anew with: make repro" >&2; exit 2; }
	$(BIN)/dvc remote add --quiet --local --default --force wafer "$(WAFER_DVC_REMOTE)"

pull: $(READY) ## get the results that dvc.lock names from the remote
	@$(BIN)/dvc remote list | grep -q . || { echo "no remote is configured: make remote WAFER_DVC_REMOTE=s3://bucket/prefix, \
	or compute everything anew: make repro" >&2; exit 2; }
	$(BIN)/dvc pull

lock: $(READY) ## resolve the dependencies anew into the two lock files
	$(BIN)/python .ci/locks.py --write

faults: $(READY) ## break each service in all ways that are tested, and write the manual's table of what was told
	WAFER_RECORD_FAULTS=1 $(BIN)/python -m pytest tests/faults/test_faults.py -m slow -q -p no:randomly
	$(BIN)/python -m tests.faults.cases

clean: ## remove what the tools made; data stays
	rm -rf $(VENV) $(TOOLS) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
