"""Forecast how often an agent will fail at deployment scale, and train it so that the forecast can be trusted."""

import importlib
from typing import Any

from sb3_forecast import conformal
from sb3_forecast.bias import BiasConstants, bias_constants
from sb3_forecast.callbacks import ForecastCallback
from sb3_forecast.checkpoints import TrainingCheckpoints, resume_training, save_training
from sb3_forecast.conformal import exceedance_probability
from sb3_forecast.cvar import CVaRPPO
from sb3_forecast.decomposition import Decomposition, decompose
from sb3_forecast.diagnostics import Diagnostics, forward_stop_k, missed_mode, stability_scan
from sb3_forecast.eval_callback import ForecastEvalCallback
from sb3_forecast.evaluation import ForecastReport, evaluate_forecast
from sb3_forecast.exact_partitions import ExpectedSquaredError
from sb3_forecast.lagrangian import PPOLagrangian
from sb3_forecast.large_pools import LargePoolScores, score_large_pool
from sb3_forecast.losses import ForecastLoss, MeanFailureLoss
from sb3_forecast.objective import ForecastObjective
from sb3_forecast.partitions import PartitionRanks, sample_partitions
from sb3_forecast.ppo import ForecastPPO
from sb3_forecast.recording import Recording, record_worst
from sb3_forecast.scorers import EpisodeScorer, ExactScorer, FailureScorer, FrequencyScorer, SurvivalScorer
from sb3_forecast.scorers.playing import Episodes, play
from sb3_forecast.scores import (
    failure_probability,
    failure_score,
    failure_score_from_log_survival,
    log_failure_probability,
    log_survival_probability,
)
from sb3_forecast.tails import GumbelTail
from sb3_forecast.version import __version__
from sb3_forecast.wrappers import CostPenalty

__all__ = [
    "BiasConstants",
    "CVaRPPO",
    "CostPenalty",
    "Decomposition",
    "Diagnostics",
    "EpisodeScorer",
    "Episodes",
    "ExactScorer",
    "ExpectedSquaredError",
    "FailureScorer",
    "ForecastCallback",
    "ForecastEvalCallback",
    "ForecastLoss",
    "ForecastObjective",
    "ForecastPPO",
    "ForecastReport",
    "FrequencyScorer",
    "GumbelTail",
    "LargePoolScores",
    "MeanFailureLoss",
    "PPOLagrangian",
    "PartitionRanks",
    "Recording",
    "SurvivalScorer",
    "TrainingCheckpoints",
    "__version__",
    "bias_constants",
    "conformal",
    "decompose",
    "evaluate_forecast",
    "exceedance_probability",
    "failure_probability",
    "failure_score",
    "failure_score_from_log_survival",
    "forward_stop_k",
    "log_failure_probability",
    "log_survival_probability",
    "missed_mode",
    "play",
    "record_worst",
    "resume_training",
    "sample_partitions",
    "save_training",
    "score_large_pool",
    "stability_scan",
]


def __getattr__(name: str) -> Any:
    """``sb3_forecast.lm`` on demand: it needs the extra ``lm``, which nothing else does."""
    if name == "lm":
        return importlib.import_module("sb3_forecast.lm")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
