"""Agents with a memory: learned survival scores them, and the callback trains them."""

from __future__ import annotations

import numpy as np
import pytest
import torch as th
from sb3_contrib import RecurrentPPO

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.scorers.actor import Actor
from sb3_forecast.scorers.situations import Situations

SETTINGS = {
    "n_steps": 32,
    "batch_size": 256,
    "n_epochs": 4,
    "learning_rate": 3e-3,
    "seed": 0,
    "device": "cpu",
    "policy_kwargs": {"lstm_hidden_size": 24, "net_arch": [24]},
}


@pytest.fixture(scope="module")
def few():
    return sfe.TaskPool("ThinIce-8x8", 60, seed=0, rare_fraction=0.1)


@pytest.fixture(scope="module")
def model(few):
    return RecurrentPPO("MlpLstmPolicy", sfe.GridVecEnv(few, 16), **SETTINGS).learn(20 * 512)


def learnt_scorer(pool, model):
    scorer = sf.EpisodeScorer(pool, episodes=2, probes=100, seed=0, n_envs=20)
    for _ in range(4):
        scorer.learn(model)
    return scorer


def test_step_by_step_is_what_the_sequence_gives(few, model):
    """The memory that is carried from step to step is the network's own over whole sequences, also across an episode's end."""
    actor = Actor(model, 3, may_remember=True)
    env = sfe.GridVecEnv(few, 2)
    seen, starts, stepped = [env.reset()], [np.ones(2, dtype=bool)], []
    memory = actor.first_memory(2)
    rng = np.random.default_rng(0)
    with th.no_grad():
        for _ in range(60):
            log_pi, memory = actor.consider(Situations(seen[-1], memory=memory), None)
            stepped.append(log_pi)
            observations, _, dones, _ = env.step(rng.integers(3, size=2))
            memory[dones] = 0.0
            seen.append(observations)
            starts.append(dones)
        assert np.stack(starts[1:-1]).any()
        layers, _, width = model.policy.lstm_hidden_state_shape
        zeros = th.zeros(layers, 2, width)
        sequences = th.as_tensor(np.stack(seen[:-1], axis=1)).flatten(0, 1)
        marks = th.as_tensor(np.stack(starts[:-1], axis=1), dtype=th.float32).flatten()
        distribution, _ = model.policy.get_distribution(sequences, (zeros, zeros), marks)
        whole = distribution.distribution.logits.double().log_softmax(-1).reshape(2, 60, 3)
    np.testing.assert_allclose(th.stack(stepped, dim=1), whole, atol=1e-5)


@pytest.mark.slow
def test_scores_agree_with_counting_and_have_a_gradient_through_the_memory(few, model):
    scorer = learnt_scorer(few, model).on(few, episodes=30)
    p = sf.failure_probability(scorer.score(model).numpy())
    counts = sf.FrequencyScorer(few, 30, n_envs=60, seed=3)
    frequency = counts.failures(model) / 30
    assert 0.05 < frequency.mean() < 0.95
    assert abs(p.mean() - frequency.mean()) < 0.05
    assert np.corrcoef(p, frequency)[0, 1] > 0.8
    finite = np.flatnonzero(np.isfinite(scorer.score(model).numpy()))[:10]
    again = scorer.rescore(model, finite)
    scorer_values = scorer.log_survival(model, finite)
    assert scorer_values.shape == (10, 30)
    again.sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.policy.lstm_actor.parameters())
    model.policy.zero_grad()


def test_rescoring_gives_the_scores_again(few, model):
    scorer = learnt_scorer(few, model)
    scores = scorer.score(model)
    finite = np.flatnonzero(np.isfinite(scores.numpy()))
    np.testing.assert_allclose(scorer.rescore(model, finite).detach(), scores[finite], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_the_callback_trains_them(few):
    def learn(coef):
        scorer = sf.EpisodeScorer(few, probes=60, seed=0, n_envs=20, warm_up_rounds=1, warm_up_failures=5)
        objective = sf.ForecastObjective(scorer, sf.ForecastLoss(eval_size=20, k=4, n_partitions=16))
        agent = RecurrentPPO("MlpLstmPolicy", sfe.GridVecEnv(few, 16, seed=1), **SETTINGS)
        agent.learn(5 * 512, callback=sf.ForecastCallback(objective, forecast_coef=coef, gradient_every=2))
        assert objective.has_partitions
        return th.cat([parameter.detach().flatten() for parameter in agent.policy.parameters()])

    first, again, without = learn(1.0), learn(1.0), learn(0.0)
    assert th.equal(first, again)
    assert not th.equal(first, without)


def test_resuming_remembers(few, tmp_path):
    """The running episodes' memory is part of a checkpoint."""
    whole = RecurrentPPO("MlpLstmPolicy", sfe.GridVecEnv(few, 4), **SETTINGS)
    whole.learn(4 * 128, callback=sf.TrainingCheckpoints(tmp_path, every=2))
    again = sf.resume_training(RecurrentPPO, tmp_path / "checkpoint-256", sfe.GridVecEnv(few, 4), device="cpu")
    again.learn(2 * 128, reset_num_timesteps=False)
    for first, second in zip(whole.policy.parameters(), again.policy.parameters(), strict=True):
        assert th.equal(first, second)
