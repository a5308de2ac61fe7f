"""Every public function with every argument wrong in every way: an error that names the argument, and never a number.

A case is one call in which one argument is bad and the others are good. `python -m tests.hostile.test_hostile` prints how many are answered how.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO

import sb3_forecast as sf
import sb3_forecast_envs as sfe
from sb3_forecast.statistics import conformal
from sb3_forecast.statistics.alternatives import ParetoTail, lognormal_forecast
from sb3_forecast.statistics.count_checks import goodness_of_fit
from sb3_forecast.statistics.counts import CountTail
from sb3_forecast.statistics.diagnostics import forward_stop_k, stability_scan
from sb3_forecast.statistics.expected import expected_failures
from sb3_forecast.statistics.intervals import pivot_cdf, pivot_quantile
from sb3_forecast.statistics.risk import clopper_pearson, frequency_upper_limit
from sb3_forecast.statistics.weighted_tail import weighted_limit
from sb3_forecast.training.tail_line import TailLineLoss
from sb3_forecast.training.validation import Validation
from tests.conftest import SMALL_PPO
from tests.hostile.bad_values import INF, NAN, Kind, real, scores, tasks, unit, whole, word

GOOD = np.linspace(-4.0, -1.0, 60) + 0.1 * np.sin(np.arange(60.0))
TAIL = sf.GumbelTail.fit(GOOD, 10)
POOL = sfe.TaskPool("ThinIce-5x5", 60, seed=1, rare_fraction=0.2)
COUNTS = (np.arange(60) % 7, np.full(60, 30))


def model() -> PPO:
    """An untrained agent."""
    return PPO("MlpPolicy", sfe.GridVecEnv(POOL, 4, seed=0), seed=0, **SMALL_PPO)


MODEL = model()
FIT = CountTail.fit(*COUNTS)
SKETCH = sf.TailSketch.of(GOOD)
REPORT = sf.ActiveEvaluation("exact", POOL, 40, n_rounds=2).run(MODEL)


def forecast_ppo(**arguments: Any) -> Any:
    """A ForecastPPO of the small pool."""
    return sf.ForecastPPO(
        "MlpPolicy", sfe.GridVecEnv(POOL, 4, seed=0), seed=0, **{**SMALL_PPO, "eval_size": 20, "k": 4, **arguments}
    )


#: function, its good arguments, and what each argument is
TABLE: dict[str, tuple[Any, dict[str, Any], dict[str, Kind]]] = {
    "GumbelTail.fit": (sf.GumbelTail.fit, {"scores": GOOD}, {"scores": scores(), "k": whole(2, 60), "method": word()}),
    "TailSketch.of": (
        sf.TailSketch.of,
        {"scores": GOOD},
        # no scores and +inf are good ones
        {"scores": Kind((*scores().bad[:2], *scores().bad[5:], np.array([0.0, NAN])), ("scores", "values", "array")), "steps": whole(0),
         "n_errors": whole(0), "top": whole(10), "sample": whole(10)},
    ),
    "sketch.worse_than": (SKETCH.worse_than, {"p": 0.01}, {"p": unit()}),
    "report_of_sketch": (
        sf.report_of_sketch,
        {"sketch": SKETCH, "eval_size": 15},
        {"eval_size": whole(10, 15), "n_splits": whole(1), "seed": whole(0), "k": whole(2, 15), "method": word()},
    ),
    "tail.forecast": (TAIL.forecast, {"n_deploy": 1e4}, {"n_deploy": real(1.0), "target": word()}),
    "tail.interval": (TAIL.interval, {"n_deploy": 1e4}, {"n_deploy": real(1.0), "level": unit()}),
    "tail.bootstrap": (TAIL.bootstrap, {"n_deploy": 1e4}, {"n_deploy": real(1.0), "n_boot": whole(), "seed": whole(0)}),
    "tail.worst_query_risk": (TAIL.worst_query_risk, {"n_deploy": 1e4}, {"n_deploy": real(1.0), "target": word()}),
    "tail.behavior_frequency": (TAIL.behavior_frequency, {"p_threshold": 0.5}, {"p_threshold": unit()}),
    "tail.behavior_frequency_limit": (
        TAIL.behavior_frequency_limit, {"p_threshold": 0.5}, {"p_threshold": unit(), "level": unit()},
    ),
    "tail.aggregate_risk": (TAIL.aggregate_risk, {"n_deploy": 1e4}, {"n_deploy": real(1.0)}),
    "decompose": (
        sf.decompose,
        {"scores": GOOD, "n_deploy": 1e4, "observed": -1.0},
        {"scores": scores(), "n_deploy": real(1.0), "k": whole(2, 60), "method": word(), "target": word(),
         "observed": Kind(("a", None, NAN, 1j), ("values",))},
    ),
    "bias_constants": (
        sf.bias_constants,
        {"k": 10, "n_eval": 60, "n_deploy": 1000},
        {"k": whole(2, 60), "n_eval": whole(10), "n_deploy": real(1.0), "method": word()},
    ),
    "missed_mode": (
        sf.missed_mode,
        {"mass": 0.01, "shift": 2.0, "k": 10, "n_eval": 60, "n_deploy": 1000},
        {"mass": unit(), "shift": real(0.0), "k": whole(2, 60), "n_eval": whole(10), "n_deploy": real(1.0), "method": word()},
    ),
    "forward_stop_k": (forward_stop_k, {"scores": GOOD}, {"scores": scores(), "alpha": unit(), "smallest": whole(2)}),
    "stability_scan": (
        stability_scan,
        {"scores": GOOD, "n_deploy": 1e4},
        {"scores": scores(), "n_deploy": real(1.0), "method": word(), "smallest": whole(2), "largest": whole(5, 60)},
    ),
    "conformal.lower_bound": (
        conformal.lower_bound, {"scores": GOOD, "n_deploy": 100}, {"scores": scores(), "n_deploy": whole(), "level": unit()},
    ),
    "conformal.upper_bound": (
        conformal.upper_bound, {"scores": GOOD, "n_deploy": 2}, {"scores": scores(), "n_deploy": whole(), "level": unit()},
    ),
    "conformal.exceedance_probability": (
        conformal.exceedance_probability,
        {"n_eval": 60, "n_deploy": 100, "j": 3, "r": 2},
        {"n_eval": whole(), "n_deploy": whole(), "j": whole(1, 60), "r": whole(1, 100)},
    ),
    "conformal.exceedance_count_interval": (
        conformal.exceedance_count_interval,
        {"n_eval": 60, "n_deploy": 100, "j": 3},
        {"n_eval": whole(), "n_deploy": whole(), "j": whole(1, 60), "level": unit()},
    ),
    "ParetoTail.fit": (ParetoTail.fit, {"scores": GOOD}, {"scores": scores(), "k": whole(2, 60)}),
    "lognormal_forecast": (lognormal_forecast, {"scores": GOOD, "n_deploy": 1e4}, {"scores": scores(), "n_deploy": real(1.0)}),
    "CountTail.interval": (
        CountTail.fit(*COUNTS).interval,
        {"n_deploy": 100, "n_boot": 20},
        {"n_deploy": real(1.0), "level": unit(), "n_boot": whole(20), "seed": whole(0)},
    ),
    "goodness_of_fit": (
        lambda **given: goodness_of_fit(FIT, **given), {"n_boot": 19}, {"n_boot": whole(19), "seed": whole(0)},
    ),
    "weighted_limit": (
        lambda **given: weighted_limit(GOOD, np.ones(60), **given), {"n_deploy": 100}, {"n_deploy": real(1.0), "level": unit()},
    ),
    "ActiveEvaluation": (
        lambda **given: sf.ActiveEvaluation(pool=POOL, **given),
        {"scorer": "exact", "budget": 20, "n_rounds": 1},
        {"scorer": word(), "budget": whole(20, 60), "n_rounds": whole(), "uniform_share": real(0.05, 1.0), "level": unit(), "seed": whole(0),
         "precision": Kind(("0.5", NAN, INF, -INF, True, [0.5], 1j, 0.0, -1.0)),
         "descriptors": Kind((np.full((60, 2), NAN), np.zeros(60), [[1.0], [2.0, 3.0]], "abc", [["a"]] * 60, np.zeros((60, 0))))},
    ),
    "ActiveReport.worse_than": (
        lambda **given: REPORT.worse_than(**given), {"p": 0.1}, {"p": Kind(("0.5", None, NAN, INF, True, [0.5], 1j, -0.1, 1.0))},
    ),
    "ActiveReport.limit": (
        lambda **given: REPORT.limit(**given),
        {"n_deploy": 100},
        {"n_deploy": Kind(("5", NAN, INF, True, [5], 1j, 0)), "level": Kind(("0.5", NAN, INF, True, [0.5], 0, 1, 90))},
    ),
    "expected_failures": (
        expected_failures,
        {"p": np.full(9, 0.1)},
        {"level": unit(), "seed": whole(0), "p": Kind(("a", None, [2.0], [-0.1], [NAN], []), ("values",))},
    ),
    "pivot_cdf": (
        pivot_cdf,
        {"c": 3.0, "k": 10, "n_eval": 60, "n_deploy": 1000},
        {"c": real(0.0), "k": whole(2, 60), "n_eval": whole(10), "n_deploy": real(1.0)},
    ),
    "pivot_quantile": (
        pivot_quantile,
        {"p": 0.9, "k": 10, "n_eval": 60, "n_deploy": 1000},
        {"p": unit(), "k": whole(2, 60), "n_eval": whole(10), "n_deploy": real(1.0)},
    ),
    "clopper_pearson": (
        clopper_pearson, {"count": 3, "n_eval": 60}, {"count": whole(0, 60), "n_eval": whole(3), "level": unit()},
    ),
    "frequency_upper_limit": (
        frequency_upper_limit,
        {"height": 2.0, "k": 10, "n_eval": 60},
        {"height": real(0.0), "k": whole(2, 60), "n_eval": whole(10), "level": unit()},
    ),
    "failure_score": (sf.failure_score, {"log_p": -1.0}, {"log_p": Kind(("a", None, 0.5, NAN, [1.0], 1j, object()), ("log_p", "values"))}),
    "ForecastLoss": (
        sf.ForecastLoss,
        {"eval_size": 30},
        {"eval_size": whole(10), "k": whole(2, 30), "n_partitions": whole(), "kind": word(), "method": word(), "level": unit(),
         "min_scale": real(None), "p_floor": Kind(("a", None, NAN, 1.0, -0.1, True))},
    ),
    "TailLineLoss": (
        TailLineLoss,
        {"eval_size": 30, "deploy_size": 100, "k": 5},
        {"eval_size": whole(5), "deploy_size": whole(), "k": whole(2, 30), "p_target": unit(), "scale": real(0.0), "lead": real(0.0),
         "hold": real(0.0), "n_worst": whole(), "n_partitions": whole()},
    ),
    "ForecastObjective": (
        lambda **a: sf.ForecastObjective(sf.ExactScorer(POOL), sf.ForecastLoss(20, 4), **a),
        {},
        {"full_every": whole(), "n_candidates": whole(), "weight_decay": real(0.0, 1.0), "seed": whole(0), "validation": tasks(60)},
    ),
    "ForecastPPO": (
        forecast_ppo,
        {},
        {"forecast_coef": real(0.0), "eval_size": whole(4), "k": whole(2, 20), "forecast_kind": word(), "p_floor": unit(),
         "drawn_share": real(0.0, 1.0), "gradient_every": whole(), "full_every": whole(), "n_candidates": whole(),
         "validation_share": real(0.0, 0.9), "validate_every": whole(), "scorer": word()},
    ),
    "TaskPool": (
        sfe.TaskPool,
        {"family": "ThinIce-5x5", "n_tasks": 5, "seed": 1},
        {"family": word(), "n_tasks": whole(), "seed": whole(0), "rare_fraction": Kind(("a", NAN, 2.0, -0.1, True)), "first": whole(0)},
    ),
    "TaskPool.subset": (POOL.subset, {"indices": [1]}, {"indices": tasks(60)}),
    "SeededTasks": (
        sfe.SeededTasks,
        {"env": "CartPole-v1", "n_tasks": 5},
        {"n_tasks": whole(), "first_seed": whole(0), "max_states": whole(), "env": Kind((None, 3, ["CartPole-v1"]))},
    ),
    "GridVecEnv": (lambda **a: sfe.GridVecEnv(POOL, **{"n_envs": 2, **a}), {}, {"n_envs": whole(), "seed": whole(0)}),
    "ExactScorer.score": (lambda **a: sf.ExactScorer(POOL).score(MODEL, **a), {}, {"tasks": tasks(60)}),
    "ExactScorer.rescore": (lambda **a: sf.ExactScorer(POOL).rescore(MODEL, **a), {"tasks": np.array([1])}, {"tasks": tasks(60)}),
    "RolloutScorer": (
        sf.RolloutScorer,
        {"pool": POOL},
        {"episodes": whole(), "seed": whole(0), "warm_up_failures": whole(0), "tau": Kind(("0.5", NAN, True, [0.5], -0.1, 0.0, 1.0)),
         "probe_share": Kind(("0.5", NAN, True, [0.5], -0.1, 1.0)), "n_envs": whole()},
    ),
    "SurvivalScorer": (sf.SurvivalScorer, {"pool": POOL}, {"episodes": whole(), "seed": whole(0)}),
    "SurvivalScorer.score": (lambda **a: sf.SurvivalScorer(POOL).score(MODEL, **a), {}, {"tasks": tasks(60)}),
    "FrequencyScorer": (sf.FrequencyScorer, {"pool": POOL}, {"episodes": whole(), "seed": whole(0), "n_envs": whole(), "budget": whole()}),
    "SplittingScorer": (
        sf.SplittingScorer,
        {"pool": POOL},
        {
            "particles": whole(4),
            "repetitions": whole(),
            "pilot": whole(0),
            "seed": whole(0),
            "slots": whole(),
            "budget": Kind((0, -1, 1.5, "many")),
            "tilt": Kind((-0.1, 1.0, float("nan"), "much")),
            "coordinate": Kind((3, "height")),
        },
    ),
    "FrequencyScorer.score": (lambda **a: sf.FrequencyScorer(POOL, 1).score(MODEL, **a), {}, {"tasks": tasks(60)}),
    "evaluate_forecast": (
        lambda **a: sf.evaluate_forecast(MODEL, POOL, **{"eval_size": 20, "k": 4, "n_splits": 5, **a}),
        {},
        {"eval_size": whole(4, 59), "k": whole(2, 20), "n_splits": whole(), "seed": whole(0), "deploy_size": whole(1, 40),
         "method": word(), "scorer": word()},
    ),
    "ForecastEvalCallback": (
        lambda **a: sf.ForecastEvalCallback(POOL, **{"eval_size": 20, "k": 4, **a}),
        {},
        {"eval_size": whole(4, 59), "k": whole(2, 20), "n_splits": whole(), "seed": whole(0), "eval_freq": whole(),
         "deploy_size": whole(1, 40), "method": word(), "min_success": real(0.0, 1.0)},
    ),
    "Validation": (
        lambda **a: Validation(POOL, **{"eval_size": 20, "k": 4, **a}), {}, {"eval_size": whole(), "k": whole(2), "seed": whole(0)},
    ),
}  # fmt: skip


def cases() -> list[tuple[str, str, int]]:
    """Function, argument and number of the bad value."""
    return [
        (name, argument, i)
        for name, (_, _, kinds) in TABLE.items()
        for argument, kind in kinds.items()
        for i in range(len(kind.bad))
    ]


def outcome(name: str, argument: str, i: int) -> tuple[str, str]:
    """What a case gives: clear, unclear, or silent; and the message or the value."""
    call, good, kinds = TABLE[name]
    kind = kinds[argument]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            value = call(**{**good, argument: kind.bad[i]})
        except (TypeError, ValueError) as error:
            text = str(error)
            named = any(re.search(rf"\b{re.escape(word)}\b", text) for word in (argument, *kind.names))
            return ("clear" if named and "must" in text else "unclear"), f"{type(error).__name__}: {text}"
        except Exception as error:
            return "unclear", f"{type(error).__name__}: {error}"
    return "silent", repr(value)[:80]


def test_good_calls_are_good():
    for name, (call, good, _) in TABLE.items():
        call(**good), name


@pytest.mark.parametrize(("name", "argument", "i"), cases(), ids=lambda value: str(value))
def test_a_bad_value_is_refused(name, argument, i):
    how, said = outcome(name, argument, i)
    assert how == "clear", f"{name}({argument}={TABLE[name][2][argument].bad[i]!r}): {how}: {said}"


def test_there_are_enough_cases():
    assert len(cases()) >= 600


if __name__ == "__main__":
    counted = Counter(outcome(*case)[0] for case in cases())
    print(dict(counted))  # noqa: T201
