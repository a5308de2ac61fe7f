"""Without a forecast ForecastPPO is PPO bit for bit, whatever the policy and the spaces; with one it trains where actions are discrete."""

import warnings

import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.utils import set_random_seed

import sb3_forecast as sf
from tests.combinations import COMBINATIONS

SETTINGS = {"n_steps": 16, "batch_size": 32, "n_epochs": 2, "seed": 1, "device": "cpu"}


def parameters(model):
    return th.cat([p.detach().flatten() for p in model.policy.parameters()])


@pytest.mark.parametrize("case", [c for c in COMBINATIONS if not c.subprocess], ids=lambda case: case.name)
def test_coefficient_zero(case):
    found = []
    for algorithm, extra in ((PPO, {}), (sf.ForecastPPO, {"forecast_coef": 0.0})):
        set_random_seed(0)
        model = algorithm(case.policy, case.env(case.tasks()), **SETTINGS, **case.settings, **extra)
        before = parameters(model).clone()
        found.append(parameters(model.learn(256)))
        assert not th.equal(before, found[-1])
    assert th.equal(*found)


@pytest.mark.filterwarnings("ignore:there is no validation")
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.name, marks=[pytest.mark.slow] if case.name == "dictionary of observations" else [])
        for case in COMBINATIONS
        if not case.subprocess
    ],
)
def test_forecasting(case):
    tasks = case.tasks()
    normalises = "Normalize" in case.name
    env = tasks.make_vec_env(8) if normalises else case.wrap(tasks.make_vec_env(8))
    scorer = sf.EpisodeScorer(tasks, env=env, probes=10, warm_up_rounds=1, warm_up_failures=3, delay=2)
    model = sf.ForecastPPO(
        case.policy,
        case.env(tasks),
        scorer=scorer,
        eval_size=12,
        k=3,
        n_partitions=8,
        full_every=1,
        **SETTINGS,
        **case.settings,
    )
    model.learn(512)
    assert model.objective.n_refreshes >= 1
    own = tasks.make_vec_env(4) if "Normalize" in case.name else case.wrap(tasks.make_vec_env(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = sf.FrequencyScorer(tasks, 1, env=own).score(model)
    assert np.isfinite(scores.numpy()).all()


@pytest.mark.slow
def test_subprocesses():
    (case,) = (c for c in COMBINATIONS if c.subprocess)
    found = []
    for algorithm, extra in ((PPO, {}), (sf.ForecastPPO, {"forecast_coef": 0.0})):
        set_random_seed(0)
        env = case.env(case.tasks(), 2)
        found.append(parameters(algorithm(case.policy, env, **SETTINGS, **extra).learn(128)))
        env.close()
    assert th.equal(*found)
