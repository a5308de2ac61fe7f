"""The line loss: what sticks out is pushed, what has fallen is held, and where it comes to rest forecasts hold."""

import numpy as np
import pytest
import torch as th

import sb3_forecast as sf
from sb3_forecast.statistics.estimators import forecast_top, mean_spacing
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


def test_what_is_usual_for_a_line():
    loss = TailLineLoss()
    assert (loss.eval_size, loss.deploy_size, loss.k, loss.n_worst, loss.n_partitions) == (200, 3800, 10, 300, 64)
    assert (loss.p_target, loss.scale, loss.lead, loss.hold) == (1e-9, 0.08, 0.5, 1.0)
    assert loss.start is None


def test_the_line_is_steeper_while_it_is_high():
    """By 0.08 per unit of psi above the target, along the whole line."""
    loss = TailLineLoss(eval_size=40, deploy_size=400, k=6, p_target=1e-6, scale=0.05, lead=0.5)
    ranks = np.array([1.0, 10.0, 15.0, 150.0])
    top = 2.0 - 0.5
    steeper = 0.08 * (top - loss.score_target)
    expected = top - steeper * np.log(ranks) - 0.05 * np.log([1.0, 1.0, 1.0, 10.0])
    np.testing.assert_allclose(loss.line(2.0, ranks, 600), expected)


def test_how_far_the_loss_looks():
    loss = TailLineLoss(**SMALL)
    assert loss.reach(100) == 100
    assert loss.reach(400) == 120  # twice n_worst
    assert loss.reach(4000) == 2 * 6 * 100  # twice as far as the k-th worst of 40
    assert (loss.flat_to(20), loss.flat_to(400)) == (1.0, 10.0)


def test_the_loss_and_its_weights_by_hand():
    """log mean (1 + p / p_line) over the tail, and its slope; below the line and the start, the pull of holding."""
    loss = TailLineLoss(eval_size=4, deploy_size=8, k=2, n_worst=12, n_partitions=3, hold=0.7)
    start = th.from_numpy(np.linspace(1.0, -2.0, 12))
    loss.draw(start, np.random.default_rng(0))
    now = start.clone()
    now[8] = -4.0  # fallen
    partitions = loss.draw(now, np.random.default_rng(0))
    assert partitions.touched.tolist() == list(range(12))
    terms = loss.evaluate(now, partitions, 12)
    p, line = sf.failure_probability(now.numpy()), partitions.line.numpy()
    excess = p / sf.failure_probability(line)
    assert terms.loss.item() == pytest.approx(np.log(np.mean(1 + excess)))
    slope = excess / (1 + excess).sum()  # d loss / d log p
    held = np.zeros(12)
    below = np.minimum(np.where(np.argsort(np.argsort(-now.numpy())) + 1.0 < 3.0, -np.inf, line), start.numpy())
    for i in range(12):
        score = float(now[i])
        if -np.exp(-score) < -np.exp(-below[i]) - 0.5:
            held[i] = 0.7 / 12 * np.exp(-score)
    assert held[8] > 0.0
    np.testing.assert_allclose(terms.weights.numpy(), slope * np.exp(-now.numpy()) - held, rtol=1e-6)
    assert terms.held == pytest.approx(held.sum())


def test_the_forecast_of_the_log_is_the_expected_maximum():
    loss = TailLineLoss(**SMALL)
    scores = on_the_line(loss)
    _, partitions, terms = weights_by_task(loss, scores)
    top = scores[partitions.evaluation].sort(dim=1, descending=True).values
    assert th.allclose(terms.forecast, forecast_top(top, 40, 400, "blue"))
    assert th.allclose(terms.scale, mean_spacing(top))
    assert th.equal(terms.realised, scores[partitions.deployment])
    assert len(terms.forecast) == 64


def test_the_worst_are_always_in_the_tail_and_others_are_drawn():
    loss = TailLineLoss(**SMALL)
    n = 4000
    scores = th.arange(n, 0, -1, dtype=th.float64) / n - 1.0
    drawn = []
    for seed in range(5):
        found = loss.draw(scores, np.random.default_rng(seed))
        tail = found.touched[~th.isnan(found.line)]
        assert (tail[:60] == th.arange(60)).all()
        assert int(tail.max()) < loss.reach(n)
        drawn.append(set(tail[60:].tolist()))
        worst = float(scores[:5].mean())
        np.testing.assert_allclose(found.line[~th.isnan(found.line)], loss.line(worst, tail.numpy() + 1.0, n))
    assert min(map(len, drawn)) > 20
    assert len(set.union(*drawn)) > 2 * max(map(len, drawn))
    # further down fewer of them
    assert np.median(sorted(set.union(*drawn))) < loss.reach(n) / 2


def test_no_place_beyond_the_finite_scores():
    loss = TailLineLoss(**SMALL)
    scores = on_the_line(loss)
    scores[50:] = -th.inf
    found = loss.draw(scores, np.random.default_rng(0))
    assert found.touched.tolist() == list(range(50))
    assert len(found.deployment) < 64
    assert th.isfinite(loss.evaluate(scores[found.touched], found, 600).weights).all()


def test_the_start_is_a_copy():
    loss = TailLineLoss(**SMALL)
    scores = on_the_line(loss)
    loss.draw(scores, np.random.default_rng(0))
    kept = scores.clone()
    scores -= 1.0
    assert th.equal(loss.start, kept)
    loss.draw(scores, np.random.default_rng(0))
    assert th.equal(loss.start, kept)
    other = TailLineLoss(**SMALL)
    other.load_state_dict({"start": None})
    assert other.start is None


def test_a_pool_of_just_both_sizes():
    loss = TailLineLoss(eval_size=8, deploy_size=12, k=3, n_worst=20, n_partitions=50)
    found = loss.draw(th.arange(20, 0, -1, dtype=th.float64), np.random.default_rng(0))
    assert len(found.deployment) == 50
    assert found.evaluation.shape == (50, 3)


def test_the_exponential_part_begins_at_the_rank_that_an_evaluation_set_sees():
    loss = TailLineLoss(**SMALL)
    found = loss.draw(on_the_line(loss), np.random.default_rng(0))
    held = {int(task): bool(th.isfinite(hold)) for task, hold in zip(found.touched, found.hold, strict=True)}
    assert loss.flat_to(600) == 15.0
    assert (held[13], held[14]) == (False, True)  # ranks 14 and 15


@pytest.mark.parametrize(("nats", "held"), [(0.4, False), (0.6, True)])
def test_half_a_nat_below_the_line_is_noise(nats, held):
    loss = TailLineLoss(**SMALL)
    start = th.zeros(600, dtype=th.float64) + 1.0
    loss.draw(start, np.random.default_rng(0))
    scores = on_the_line(loss)
    partitions = loss.draw(scores, np.random.default_rng(0))
    scores[30] = -th.log(th.exp(-scores[30]) + nats)
    terms = loss.evaluate(scores[partitions.touched], partitions, 600)
    assert (terms.held > 0.0) == held


def test_scores_of_single_precision_are_kept_in_double():
    loss = TailLineLoss(**SMALL)
    loss.draw(on_the_line(loss).float(), np.random.default_rng(0))
    assert loss.start.dtype == th.float64
