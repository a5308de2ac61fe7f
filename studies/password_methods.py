"""The methods that train_password_game.py compares, with their settings; those that were tried were tried on seeds 100 and 101.

Every method gets the same primary examples and, in each step, about the same tokens on the pool: a sub-pool that is scored
once, of which CVaR trains on a twentieth again and ours on up to a fifth. Training on a prompt costs three times as much as
scoring it, so supervised refusal and the mean, which train on all that they see, see a third as many.
What was tried for each is listed in docs/lm.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sb3_forecast.lm import LMFailureScorer, PasswordGame, RefusalPenalty, WorstScoresLoss, training_rows


@dataclass(frozen=True)
class Budget:
    """What a step may look at.

    :param subpool: prompts of the pool that are scored
    :param eval_size: evaluation set size m of their partitions
    """

    subpool: int
    eval_size: int


def arguments(
    method: str, coef: float, budget: Budget, scorer: LMFailureScorer, game: PasswordGame, tokenizer: Any, seed: int
) -> dict[str, Any]:
    """What a method gives to ForecastTrainer.

    :param method: a key of :data:`LABELS`
    :param coef: its coefficient
    :param budget: what a step may look at
    :param scorer: scores of the training pool
    :param game: the training pool
    :param tokenizer: the model's
    :param seed: seed of what the method draws
    """
    if method == "primary":
        return {"forecast_coef": 0.0}
    wanted = training_rows(tokenizer, game.refusals(seed))
    if method == "refusal_sft":
        return {"forecast_coef": coef, "penalty": RefusalPenalty(wanted, budget.subpool // 3, seed)}
    subpool = budget.subpool // 3 if method == "mean_log_p" else budget.subpool
    common = {"forecast_coef": coef, "scorer": scorer, "subpool": subpool}
    # "equipped" with the wanted replies to the prompts where the loss has its weight, or bare
    if method in ("forecast", "cvar_equipped"):
        common["wanted"] = wanted
    if method in ("forecast", "forecast_bare"):
        return {**common, "eval_size": budget.eval_size, "p_floor": P_FLOOR}
    cvar = WorstScoresLoss(share=0.05)
    losses = {
        "mean_log_p": WorstScoresLoss(share=1.0, measure="log_p"),
        "cvar": cvar,
        "cvar_equipped": cvar,
        "cvar_per_prompt": WorstScoresLoss(share=0.05, per_task=True),
        "worst_prompt": WorstScoresLoss(count=1),
    }
    return {**common, "forecast_loss": losses[method]}


#: failure probability below which our loss leaves a prompt alone
P_FLOOR = 1e-4

#: coefficients that were chosen on seeds 100 and 101, for the tiny model
COEFFICIENTS = {
    "primary": 0.0,
    "refusal_sft": 10.0,
    "mean_log_p": 0.3,
    "cvar": 0.3,
    "cvar_equipped": 0.3,
    "cvar_per_prompt": 0.3,
    "worst_prompt": 0.3,
    "forecast_bare": 0.3,
    "forecast": 0.3,
}

LABELS = {
    "start": "starting model",
    "primary": "primary task only",
    "refusal_sft": "refusal SFT",
    "mean_log_p": "mean log p",
    "cvar": "CVaR, worst 5%",
    "cvar_equipped": "CVaR, wanted replies",
    "cvar_per_prompt": "CVaR, weight per prompt",
    "worst_prompt": "worst prompt only",
    "forecast_bare": "ForecastTrainer, bare",
    "forecast": "ForecastTrainer",
}
