"""Every table of README and docs that is made of records."""

from __future__ import annotations

from studies import active, cart_pole, continuous, gridworld, lunar_lander, off_policy
from studies.gridworld_methods import LABELS as GRIDWORLD
from studies.statistics import Column
from studies.tables import Row, Table

#: code that each study depends on, besides the library
SOURCES = {
    "gridworld": gridworld.STUDY.sources,
    "cart_pole": cart_pole.STUDY.sources,
    "active": active.STUDY.sources,
    "lunar_lander": lunar_lander.STUDY.sources,
    "continuous": continuous.STUDY.sources,
    "off_policy": off_policy.STUDY.sources,
    "password_game": ("studies/password_game.py", "studies/password_methods.py"),
}

_GRID, _POLE = gridworld.COLUMNS, cart_pole.COLUMNS
_GRID_NAMES = ("error", "scales", "signed", "under", "worst", "rare_mean", "success", "rare_success")
_FREE_NAMES = ("error", "signed", "under", "worst", "rare_mean", "success", "rare_success")
_POLE_NAMES = ("limit", "error", "under", "worst", "mean", "rare_mean", "success", "rare_success")

#: the password game's columns; not from studies.password_game, which needs the extra `lm`
_PROMPTS = {
    "limit": Column("95% limit holds", ("limit_holds",), "{:.0%}"),
    "interval": Column("90% interval holds", ("interval_holds",), "{:.0%}"),
    "tenfold": Column("within 10x", ("within_10x",), "{:.0%}"),
    "error": Column("forecast error, psi", ("error", "mean_abs"), "{:.3f}"),
    "scales": Column("... / scale", ("error_in_scale", "mean_abs"), "{:.1f}"),
    "signed": Column("signed", ("error", "signed"), "{:+.2f}"),
    "under": Column("too low in", ("under_predicted",), "{:.0%}"),
    "worst": Column("worst p", ("worst_failure",), "{:.1e}"),
    "further": Column("worst of further rare", ("further_rare_worst",), "{:.1e}"),
    "sampled": Column("sampled rare leak", ("sampled_rare_leak",), "{:.4f}"),
    "accuracy": Column("accuracy", ("primary_accuracy",), "{:.4f}"),
    "authorised": Column("authorised", ("primary_authorised",), "{:.3f}"),
}
_PROMPT_ROWS = (
    Row("starting model", "start"),
    Row("primary task only", "primary"),
    Row("refusal SFT", "refusal_sft"),
    Row("CVaR, worst 5%", "cvar"),
    Row("CVaR, wanted replies", "cvar_equipped"),
    Row("worst prompt only", "worst_prompt"),
    Row("ForecastTrainer, bare", "forecast_bare"),
    Row("ForecastTrainer", "forecast"),
)
_PROMPT_NAMES = ("error", "scales", "signed", "under", "worst", "further", "sampled", "accuracy")


def _rows(*methods: str) -> tuple[Row, ...]:
    return tuple(Row(GRIDWORLD[method], method) for method in methods)


#: families, each in a folder of its own; of two of them there are records of the loss of 0.2.0, too
_FAMILIES = {
    "families-thin-ice": "",
    "families-decoy": "gridworld_decoy",
    "families-wind": "gridworld_wind",
    "families-thin-ice-12": "",
    "families-bridge": "",
}


def _family(name: str, earlier: str) -> Table:
    rows = _rows("base", "ppo", "ppo_lagrangian", "mean_failure_equipped", "forecast")
    return Table(
        name.replace("-", "_"),
        rows + ((Row(GRIDWORLD["forecast_guarded"], "forecast", earlier),) if earlier else ()),
        [_GRID[column] for column in ("limit", "interval", "within", "worst", "mean", "success", "rare_success")],
        paired={"ppo": _GRID["success"], "base": _GRID["success"]},
    )


#: samples of the study of active evaluation, a row each
_SAMPLES = tuple(
    Row(f"{active.KINDS[kind]}, {budget:,}", f"{kind}_{budget}")
    for kind, budgets in (("random", (300, 1000, 3000)), ("active", (300, 1000, 3000)), ("noise", (1000,)))
    for budget in budgets
)

TABLES = {
    **{
        f"active-{family}": Table(f"active_{family.replace('-', '_')}", _SAMPLES, list(active.COLUMNS.values()))
        for family in ("thin-ice", "decoy", "bridge", "wind", "vault", "cart-pole", "password-game")
    },
    **{name: _family(name, earlier) for name, earlier in _FAMILIES.items()},
    "ablations-thin-ice": Table(
        "ablations_thin_ice",
        _rows("ppo", "drawn_only", "mean_failure_equipped", "forecast_guarded", "line_only", "forecast"),
        [_GRID[column] for column in ("limit", "interval", "within", "worst", "mean", "success", "rare_success")],
    ),
    "gridworld": Table(
        "gridworld",
        (
            *_rows("base", "ppo", "cost_penalty", "ppo_lagrangian", "mean_failure_bare", "mean_failure_equipped"),
            Row(GRIDWORLD["forecast_guarded"], "forecast"),
        ),
        [_GRID[name] for name in _GRID_NAMES],
    ),
    "thin-ice-model-free": Table(
        "thin_ice_model_free",
        [
            *_rows("base", "ppo", "ppo_lagrangian_10", "cvar_ppo", "forecast_episodes"),
            Row(f"{GRIDWORLD['forecast_probes']}, seeds 1 and 2", "forecast_probes"),
        ],
        [_GRID[name] for name in ("limit", "error", "worst", "mean", "rare_mean", "success", "rare_success")],
    ),
    "thin-ice-updates": Table("thin_ice_updates", _rows("base", "forecast_episodes"), [_GRID[name] for name in _FREE_NAMES]),
    "cart-pole": Table(
        "cart_pole",
        (
            *(Row(cart_pole.LABELS[method], method) for method in ("base", "ppo", "ppo_lagrangian", "cvar_ppo")),
            *(Row(cart_pole.LABELS[method], method) for method in ("penalty", "replay", "lagrangian_replay", "forecast")),
            *(Row(f"{cart_pole.LABELS[method]}, limits compared", method) for method in ("forecast_half", "forecast_line")),
            Row(f"{cart_pole.LABELS['forecast_rollouts']}, seed 1 only", "forecast_rollouts"),
            *(Row(cart_pole.LABELS[method], method) for method in cart_pole.WITH_MANY),
            Row("ForecastPPO 0.2.0, no validation, seeds 1 to 3", "forecast", "cart_pole_unguarded"),
            Row("... equal updates: 99, scoring not counted", "forecast", "cart_pole_updates"),
        ),
        [_POLE[name] for name in _POLE_NAMES],
    ),
    "lunar-lander": Table(
        "lunar_lander",
        [
            *(
                Row(lunar_lander.LABELS[method], method)
                for method in ("base", "ppo", "ppo_lagrangian", "cvar_ppo", "replay", "forecast")
            ),
            Row(f"{lunar_lander.LABELS['forecast_rollouts']}, seeds 1 to 3", "forecast_rollouts"),
        ],
        list(lunar_lander.COLUMNS.values()),
    ),
    "continuous-poles": Table(
        "continuous_poles",
        [
            Row(continuous.LABELS[method], method)
            for method in ("base", "ppo", "ppo_lagrangian", "cvar_ppo", "replay", "forecast_penalty")
        ],
        list(continuous.COLUMNS.values()),
    ),
    "continuous-pendulum": Table(
        "continuous_pendulum",
        [
            *(
                Row(continuous.LABELS[method], method)
                for method in ("base", "ppo", "ppo_lagrangian", "cvar_ppo", "replay_bare")
            ),
            Row(continuous.LABELS["forecast_rollouts"], "forecast_rollouts"),
            Row("ForecastPPO, learned survival, seeds 1 to 3", "forecast"),
        ],
        [column for name, column in continuous.COLUMNS.items() if name not in ("success", "rare_success")],
    ),
    "off-policy": Table(
        "off_policy",
        [Row(off_policy.LABELS[method], method) for method in ("base", "sac", "replay", "forecast_replay")],
        [column for name, column in continuous.COLUMNS.items() if name != "updates"],
    ),
    "password-game": Table("password_game", _PROMPT_ROWS, [_PROMPTS[name] for name in _PROMPT_NAMES]),
    "password-game-limits": Table(
        "password_game_limits",
        _PROMPT_ROWS,
        [_PROMPTS[name] for name in ("limit", "interval", "tenfold", "worst", "further", "accuracy")],
    ),
    "password-game-rare5": Table("password_game_rare5", _PROMPT_ROWS, [_PROMPTS[name] for name in _PROMPT_NAMES]),
    "password-game-rare3": Table("password_game_rare3", _PROMPT_ROWS, [_PROMPTS[name] for name in _PROMPT_NAMES]),
    "smollm2": Table("smollm2", _PROMPT_ROWS, [_PROMPTS[name] for name in (*_PROMPT_NAMES, "authorised")]),
}
