"""``evaluate --max-episodes``: the best answer that a number of episodes can give."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_forecast.checks import whole
from sb3_forecast.cli.commands import Evaluate
from sb3_forecast.scorers.frequency import FrequencyScorer, all_as_before
from sb3_forecast.scorers.make import make_measuring_scorer
from sb3_forecast.scorers.playing import is_stochastic, play
from sb3_forecast.scorers.protocols import Counts, Scorer, SupportsEpisodes

#: tasks that are played twice, to see whether the task decides how its episode ends
_PROBED = 10
#: share of the episodes that play another task each. The others find out how reliably tasks fail; all of them would say a little more of the
#: mean, and nothing of the worst task
_ONCE = 0.75


def check_max_episodes(args: Evaluate) -> None:
    """Refuse options that do not go together.

    :param args: the options of the command
    :raises ValueError: if an option does nothing beside ``--max-episodes``, or the number is too small
    """
    if args.max_episodes is None:
        return
    whole("max_episodes", args.max_episodes, low=40, use="for example 4000")
    if args.active or args.cluster is not None:
        raise ValueError(
            f"max_episodes must be left out with active or cluster, got {args.max_episodes}; use --budget and --episodes, or leave out "
            "--active and --cluster"
        )
    if args.scorer not in ("auto", "frequency"):
        raise ValueError(
            f"max_episodes must be left out with the scorer {args.scorer}, which plays no episodes to their end, got {args.max_episodes}; use "
            "--scorer frequency"
        )
    for name, value, usual in (
        ("eval_size", args.eval_size, 200),
        ("episodes", args.episodes, 20),
        ("held_out", args.held_out, 0),
    ):
        if value != usual:
            raise ValueError(
                f"{name} must be left out with max_episodes, which says how many tasks are played and how often, got {value}; leave out "
                f"--{name.replace('_', '-')}, or --max-episodes"
            )


def counter(args: Evaluate, model: BaseAlgorithm, make: Callable[[int], SupportsEpisodes]) -> tuple[SupportsEpisodes, Scorer]:
    """Decide how the episodes are used.

    Where a task decides how its episode ends, as with a model that takes its likeliest actions, every episode plays another task. Elsewhere
    three quarters do, and the others are left to tasks whose failure probability is least known.

    :param args: the options of the command
    :param model: the model
    :param make: makes a pool of a number of tasks
    :return: the tasks, and what counts in them
    :raises ValueError: if failures need not be counted
    """
    assert args.max_episodes is not None
    few = make(_PROBED)
    if not args.deterministic:
        found = make_measuring_scorer(args.scorer, few, model, args.seed)
        if not found.counts_failures:
            raise ValueError(
                f"max_episodes must be left out where failures need not be counted ({type(found).__name__} computes them), got "
                f"{args.max_episodes}; leave it out, or use --scorer frequency"
            )
        reason = found.reason
    else:
        reason = ""
    deterministic = args.deterministic or None
    twice = np.repeat(np.arange(_PROBED), 2)
    with closing(few.make_vec_env(_PROBED)) as env:
        played = play(model, env, twice, args.seed, deterministic)
    decides = all_as_before(twice, played, sampled=is_stochastic(model) and not args.deterministic)
    tasks = make(args.max_episodes if decides else int(_ONCE * args.max_episodes))
    shown = args.progress_bar and not args.json
    scorer = FrequencyScorer(tasks, 1, args.seed, deterministic=deterministic, progress_bar=shown, budget=args.max_episodes)
    scorer.reason = reason
    return tasks, scorer


def use_of(counts: Counts) -> str:
    """How the episodes were used, in words.

    :param counts: what was counted
    """
    tasks, total = len(counts.trials), int(counts.trials.sum())
    if total == tasks:
        return f"failures of {total:,} episodes, each of another task, because a task decides how its episode ends"
    again = int((counts.trials > 1).sum())
    return (
        f"failures of {total:,} episodes: {tasks:,} tasks once, then {total - tasks:,} episodes in the {again:,} tasks whose failure "
        "probability was least known"
    )
