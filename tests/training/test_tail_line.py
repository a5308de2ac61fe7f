"""The line loss: what sticks out is pushed, what has fallen is held, and where it comes to rest forecasts hold."""

import numpy as np
import pytest
import torch as th

import sb3_forecast as sf
from sb3_forecast.training.losses import TooFewScoresError
from sb3_forecast.training.tail_line import TailLineLoss
from tests.measuring.test_evaluate import report_of

SMALL = {"eval_size": 40, "deploy_size": 400, "k": 6, "n_worst": 60}


def weights_by_task(loss, scores, seed=0):
    partitions = loss.draw(scores, np.random.default_rng(seed))
    terms = loss.evaluate(scores[partitions.touched], partitions, len(scores))
    out = th.zeros(len(scores), dtype=th.float64)
    out[partitions.touched] = terms.weights
    return out, partitions, terms


def on_the_line(loss, n=600):
    """Scores that lie where the loss wants them, its top at the target."""
    return th.from_numpy(loss.line(-9.0, np.arange(1, n + 1.0), n))


def test_the_line_follows_the_worst_down_to_the_target():
    loss = TailLineLoss(eval_size=40, deploy_size=400, k=6, p_target=1e-6, scale=0.05, lead=0.5)
    assert sf.failure_probability(loss.score_target) == pytest.approx(1e-6)
    ranks = np.array([1.0, 5.0, 15.0, 150.0])
    assert loss.flat_to(600) == 15.0
    # flat as far as an evaluation set does not see, then exponential
    np.testing.assert_allclose(loss.line(-9.0, ranks, 600), loss.score_target - 0.05 * np.log([1.0, 1.0, 1.0, 10.0]))
    high, low = loss.line(2.0, ranks, 600), loss.line(-9.0, ranks, 600)
    assert high[0] == pytest.approx(1.5)
    assert (np.diff(high) < np.diff(low)).all()
    assert loss.line(loss.score_target + 0.6, ranks, 600)[0] == pytest.approx(loss.score_target + 0.1)


def test_no_task_of_the_flat_part_is_held():
    """The worst of those that were trained on may be as safe as they can: only the part that an evaluation set sees is held."""
    loss = TailLineLoss(**SMALL)
    start = on_the_line(loss) + 2.0
    weights_by_task(loss, start)
    found, _, _ = weights_by_task(loss, on_the_line(loss) - 0.3)
    assert (found[:14] >= 0.0).all()
    assert (found[20:100] <= 0.0).all()
    assert (found[20:60] < 0.0).all()


def test_what_sticks_out_has_the_weight():
    loss = TailLineLoss(**SMALL)
    scores = on_the_line(loss)
    flat, _, _ = weights_by_task(loss, scores)
    assert (flat >= 0.0).all()
    scores[30] = 0.0  # p = 0.37
    found, partitions, _ = weights_by_task(TailLineLoss(lead=9.0, **SMALL), scores)
    # in log p, where a step of the policy acts, nearly all of the weight is on the outlier
    in_log_p = found * th.exp(scores)
    assert in_log_p[30] > 0.9 * in_log_p.abs().sum()
    assert 30 in partitions.touched


def test_no_task_is_asked_to_fail_more_than_at_the_start():
    generator = np.random.default_rng(3)
    start = th.from_numpy(np.sort(0.4 * generator.gumbel(size=600) - 2.0)[::-1].copy())
    loss = TailLineLoss(**SMALL)
    weights_by_task(loss, start)
    now = start - th.from_numpy(generator.exponential(0.3, size=600))
    found, _, _ = weights_by_task(loss, now)
    asked = found < 0.0
    assert asked.any()
    assert (now[asked] < start[asked]).all()
    # at the start itself nothing is held, and with hold=0 nothing ever
    assert (weights_by_task(TailLineLoss(**SMALL), start)[0] >= 0.0).all()
    without = TailLineLoss(hold=0.0, **SMALL)
    without.start = start
    assert (weights_by_task(without, now)[0] >= 0.0).all()


def test_where_it_comes_to_rest_forecasts_hold():
    """Free scores with a rare mode: the guarded loss stops at a heavy tail, this one at a tail whose limit holds."""
    generator = np.random.default_rng(0)
    start = 0.15 * generator.gumbel(size=4200) - 3.0
    start[:12] = generator.normal(2.0, 0.5, size=12)
    before = report_of(start, eval_size=200, n_splits=200)
    assert before.limit_holds < 0.75
    loss = TailLineLoss(eval_size=200, deploy_size=3800, p_target=1e-5, scale=0.05)
    log_p = th.from_numpy(-np.exp(-start)).requires_grad_(True)
    optimizer = th.optim.SGD([log_p], lr=1.0)
    for _ in range(600):
        scores = -th.log(-log_p)
        partitions = loss.draw(scores, generator)
        terms = loss.evaluate(scores[partitions.touched], partitions, 4200)
        optimizer.zero_grad()
        (20.0 * terms.loss).backward()
        optimizer.step()
    after = report_of((-th.log(-log_p)).detach().numpy(), eval_size=200, n_splits=200)
    assert after.limit_holds > 0.9
    assert after.worst_failure < 1e-3
    assert (log_p.detach().numpy() <= -np.exp(-start) + 0.5).all()


def test_the_gradient_is_that_of_the_weights():
    loss = TailLineLoss(**SMALL)
    scores = (on_the_line(loss) + 0.1 * th.sin(th.arange(600.0, dtype=th.float64))).requires_grad_(True)
    found, _, terms = weights_by_task(loss, scores)
    (gradient,) = th.autograd.grad(terms.loss, scores)
    th.testing.assert_close(gradient, found)
    assert terms.loss.item() > 0.0


def test_partitions_are_those_of_random_parts_of_the_pool():
    """Ranks of the worst by nested gaps, against permutations."""
    loss = TailLineLoss(eval_size=8, deploy_size=12, k=3, n_worst=20, n_partitions=4000)
    found = loss.draw(th.arange(60, 0, -1, dtype=th.float64), np.random.default_rng(0))
    generator, evaluation, deployment = np.random.default_rng(1), [], []
    for _ in range(4000):
        part = generator.permutation(60)[:20]
        evaluation.append(np.sort(part[:8])[:3])
        deployment.append(part[8:].min())
    for ours, theirs in ((found.evaluation.numpy(), np.array(evaluation)), (found.deployment.numpy(), np.array(deployment))):
        spread = np.sqrt((ours.var(axis=0) + theirs.var(axis=0)) / 4000)
        assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 4.0 * spread).all()


def test_the_state_goes_on():
    loss, scores = TailLineLoss(**SMALL), on_the_line(TailLineLoss(**SMALL))
    weights_by_task(loss, scores)
    again = TailLineLoss(**SMALL)
    again.load_state_dict(loss.state_dict())
    a, b = (weights_by_task(each, scores - 0.2)[0] for each in (loss, again))
    th.testing.assert_close(a, b)
    assert not th.equal(a, weights_by_task(TailLineLoss(**SMALL), scores - 0.2)[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"p_target": 0.0}, "p_target must be strictly between 0 and 1, got 0.0"),
        ({"scale": 0.0}, "scale must be above 0, got 0.0"),
        ({"lead": -1.0}, "lead must be above 0, got -1.0"),
        ({"hold": -1.0}, "hold must be at least 0, got -1.0"),
        ({"n_worst": 0}, "n_worst must be at least 1, got 0"),
        ({"n_partitions": 0}, "n_partitions must be at least 1, got 0"),
        ({"k": 1}, "k"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        TailLineLoss(**arguments)


def test_pools_without_a_forecast():
    generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match="deploy_size must be at most 60 for a pool of 100 tasks, got 400"):
        TailLineLoss(**SMALL).draw(th.zeros(100, dtype=th.float64), generator)
    scores = th.full((600,), -th.inf, dtype=th.float64)
    scores[:4] = 0.0
    with pytest.raises(TooFewScoresError, match="got 4 finite ones of 600"):
        TailLineLoss(**SMALL).draw(scores, generator)
