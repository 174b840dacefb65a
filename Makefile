# Each target does all its own set-up: .ci/environment installs the pinned environment on first use and prints its Python.
# More settings for a recipe: make demo ARGS="run.seed=2"

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo study test test-vllm test-slurm campaign lint format clean

export PYTHONPATH := $(CURDIR)
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
ifndef NEMO_FORKING_PYTHON
# A CUDA build of torch on a machine without a GPU: NeMo's import asks for an architecture list and fails on an empty one.
export TORCH_CUDA_ARCH_LIST ?= 9.0
# The pinned environment is for the CPU; Megatron would take a GPU wherever it sees one.
export CUDA_VISIBLE_DEVICES :=
endif

environment = python=$$(.ci/environment)

help:
	@echo "make demo    the main job on a laptop: data, base model, SSFT against random matching, GFPO, GRPO, report (5 to 8 minutes, 2 cores)"
	@echo "make study   the same with three seeds, every matching rule, more policies (40 minutes)"
	@echo "make test    lint and all tests (20 minutes)"
	@echo "make test-vllm  vLLM itself, in an environment of its own: in process and as a server (3 GB once, then a minute)"
	@echo "make test-slurm  jobs on a real Slurm of three simulated nodes; installs Debian's packages where they are missing (root)"
	@echo "make campaign  100 kills, every file damaged in every way, full disks and read-only folders (40 minutes)"
	@echo "make lint    ruff only; make format mends what ruff can"
	@echo "make clean   removes runs/ and caches of this checkout (the environment stays)"

demo:
	@$(environment); "$$python" recipes/reproduce.py experiment=tiny $(ARGS)

study:
	@$(environment); "$$python" recipes/reproduce.py experiment=tiny_study $(ARGS)

test: lint
	@$(environment); "$$python" -m pytest $(ARGS)

test-vllm:
	@python=$$(tests/serving/vllm_environment); "$$python" -m pytest tests/serving $(ARGS)

test-slurm:
	@$(environment); NEMO_FORKING_REQUIRE_SLURM=1 "$$python" -m pytest tests/slurm $(ARGS)

campaign:
	@$(environment); for what in "kills --kills 100" corruption disk; do "$$python" -m tests.campaign $$what $(ARGS); done

lint:
	@$(environment); "$$python" -m ruff check . && "$$python" -m ruff format --check .

format:
	@$(environment); "$$python" -m ruff check --fix . && "$$python" -m ruff format .

clean:
	rm -rf runs .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
