"""Forecast how often an agent will fail at deployment scale, and train it so that the forecast can be trusted."""

import importlib
from typing import TYPE_CHECKING, Any

from sb3_forecast.version import __version__

if TYPE_CHECKING:
    from sb3_forecast import cluster as cluster
    from sb3_forecast import lm as lm
    from sb3_forecast.baselines.cost_penalty import CostPenalty
    from sb3_forecast.baselines.cvar_ppo import CVaRPPO
    from sb3_forecast.baselines.mean_failure import MeanFailureLoss
    from sb3_forecast.baselines.ppo_lagrangian import PPOLagrangian
    from sb3_forecast.descriptors import Descriptors
    from sb3_forecast.measuring.active.evaluation import ActiveEvaluation
    from sb3_forecast.measuring.active.examples import record_modes
    from sb3_forecast.measuring.active.report import ActiveReport
    from sb3_forecast.measuring.comparing import record_side_by_side
    from sb3_forecast.measuring.eval_callback import ForecastEvalCallback
    from sb3_forecast.measuring.evaluate import evaluate_forecast
    from sb3_forecast.measuring.html.page import write_html
    from sb3_forecast.measuring.html.parts import Example
    from sb3_forecast.measuring.recording import Recording, record_worst
    from sb3_forecast.measuring.report import ForecastReport
    from sb3_forecast.measuring.sketch_report import report_of_sketch
    from sb3_forecast.scorers.exact import ExactScorer
    from sb3_forecast.scorers.frequency import FrequencyScorer
    from sb3_forecast.scorers.large_pools import LargePoolScores, score_large_pool
    from sb3_forecast.scorers.learned.rollouts import RolloutScorer
    from sb3_forecast.scorers.learned.scorer import EpisodeScorer
    from sb3_forecast.scorers.playing import Episodes, play
    from sb3_forecast.scorers.protocols import FailureScorer, Measurement
    from sb3_forecast.scorers.splitting.scorer import SplittingScorer
    from sb3_forecast.scorers.survival import SurvivalScorer
    from sb3_forecast.statistics import conformal
    from sb3_forecast.statistics.bias import BiasConstants, bias_constants
    from sb3_forecast.statistics.conformal import exceedance_probability
    from sb3_forecast.statistics.decomposition import Decomposition, decompose
    from sb3_forecast.statistics.diagnostics import Diagnostics, forward_stop_k, missed_mode, stability_scan
    from sb3_forecast.statistics.exact_partitions import ExpectedSquaredError
    from sb3_forecast.statistics.names import NoForecastError
    from sb3_forecast.statistics.partitions import PartitionRanks, sample_partitions
    from sb3_forecast.statistics.scores import (
        failure_probability,
        failure_score,
        failure_score_from_log_survival,
        log_failure_probability,
        log_survival_probability,
    )
    from sb3_forecast.statistics.sketch import TailSketch
    from sb3_forecast.statistics.tails import GumbelTail
    from sb3_forecast.training.averaging import PolicyAverage
    from sb3_forecast.training.callback import ForecastCallback
    from sb3_forecast.training.checkpoints import TrainingCheckpoints, resume_training, save_training
    from sb3_forecast.training.forecast_ppo import ForecastPPO
    from sb3_forecast.training.guard import TrainingWarning
    from sb3_forecast.training.losses import ForecastLoss
    from sb3_forecast.training.objective import ForecastObjective
    from sb3_forecast.training.replay import FailureReplay
    from sb3_forecast.training.tail_line import TailLineLoss
    from sb3_forecast.training.validation import Validation

#: module of each public name; it is imported when the name is first used, so that `import sb3_forecast` is fast
_DEFINED_IN = {
    "CostPenalty": "sb3_forecast.baselines.cost_penalty",
    "CVaRPPO": "sb3_forecast.baselines.cvar_ppo",
    "MeanFailureLoss": "sb3_forecast.baselines.mean_failure",
    "PPOLagrangian": "sb3_forecast.baselines.ppo_lagrangian",
    "Descriptors": "sb3_forecast.descriptors",
    "ActiveEvaluation": "sb3_forecast.measuring.active.evaluation",
    "record_modes": "sb3_forecast.measuring.active.examples",
    "ActiveReport": "sb3_forecast.measuring.active.report",
    "ForecastEvalCallback": "sb3_forecast.measuring.eval_callback",
    "evaluate_forecast": "sb3_forecast.measuring.evaluate",
    "Recording": "sb3_forecast.measuring.recording",
    "record_worst": "sb3_forecast.measuring.recording",
    "record_side_by_side": "sb3_forecast.measuring.comparing",
    "write_html": "sb3_forecast.measuring.html.page",
    "Example": "sb3_forecast.measuring.html.parts",
    "ForecastReport": "sb3_forecast.measuring.report",
    "ExactScorer": "sb3_forecast.scorers.exact",
    "FrequencyScorer": "sb3_forecast.scorers.frequency",
    "SplittingScorer": "sb3_forecast.scorers.splitting.scorer",
    "LargePoolScores": "sb3_forecast.scorers.large_pools",
    "score_large_pool": "sb3_forecast.scorers.large_pools",
    "EpisodeScorer": "sb3_forecast.scorers.learned.scorer",
    "RolloutScorer": "sb3_forecast.scorers.learned.rollouts",
    "Episodes": "sb3_forecast.scorers.playing",
    "play": "sb3_forecast.scorers.playing",
    "FailureScorer": "sb3_forecast.scorers.protocols",
    "Measurement": "sb3_forecast.scorers.protocols",
    "SurvivalScorer": "sb3_forecast.scorers.survival",
    "BiasConstants": "sb3_forecast.statistics.bias",
    "bias_constants": "sb3_forecast.statistics.bias",
    "exceedance_probability": "sb3_forecast.statistics.conformal",
    "Decomposition": "sb3_forecast.statistics.decomposition",
    "decompose": "sb3_forecast.statistics.decomposition",
    "Diagnostics": "sb3_forecast.statistics.diagnostics",
    "forward_stop_k": "sb3_forecast.statistics.diagnostics",
    "missed_mode": "sb3_forecast.statistics.diagnostics",
    "stability_scan": "sb3_forecast.statistics.diagnostics",
    "ExpectedSquaredError": "sb3_forecast.statistics.exact_partitions",
    "PartitionRanks": "sb3_forecast.statistics.partitions",
    "sample_partitions": "sb3_forecast.statistics.partitions",
    "failure_probability": "sb3_forecast.statistics.scores",
    "failure_score": "sb3_forecast.statistics.scores",
    "failure_score_from_log_survival": "sb3_forecast.statistics.scores",
    "log_failure_probability": "sb3_forecast.statistics.scores",
    "log_survival_probability": "sb3_forecast.statistics.scores",
    "report_of_sketch": "sb3_forecast.measuring.sketch_report",
    "TailSketch": "sb3_forecast.statistics.sketch",
    "GumbelTail": "sb3_forecast.statistics.tails",
    "ForecastCallback": "sb3_forecast.training.callback",
    "TrainingCheckpoints": "sb3_forecast.training.checkpoints",
    "resume_training": "sb3_forecast.training.checkpoints",
    "save_training": "sb3_forecast.training.checkpoints",
    "ForecastPPO": "sb3_forecast.training.forecast_ppo",
    "TrainingWarning": "sb3_forecast.training.guard",
    "ForecastLoss": "sb3_forecast.training.losses",
    "NoForecastError": "sb3_forecast.statistics.names",
    "FailureReplay": "sb3_forecast.training.replay",
    "PolicyAverage": "sb3_forecast.training.averaging",
    "TailLineLoss": "sb3_forecast.training.tail_line",
    "Validation": "sb3_forecast.training.validation",
    "ForecastObjective": "sb3_forecast.training.objective",
}
#: public modules
_MODULES = {"cluster": "sb3_forecast.cluster", "conformal": "sb3_forecast.statistics.conformal", "lm": "sb3_forecast.lm"}

__all__ = [
    "ActiveEvaluation",
    "ActiveReport",
    "BiasConstants",
    "CVaRPPO",
    "CostPenalty",
    "Decomposition",
    "Descriptors",
    "Diagnostics",
    "EpisodeScorer",
    "Episodes",
    "ExactScorer",
    "Example",
    "ExpectedSquaredError",
    "FailureReplay",
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
    "Measurement",
    "NoForecastError",
    "PPOLagrangian",
    "PartitionRanks",
    "PolicyAverage",
    "Recording",
    "RolloutScorer",
    "SplittingScorer",
    "SurvivalScorer",
    "TailLineLoss",
    "TailSketch",
    "TrainingCheckpoints",
    "TrainingWarning",
    "Validation",
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
    "record_modes",
    "record_side_by_side",
    "record_worst",
    "report_of_sketch",
    "resume_training",
    "sample_partitions",
    "save_training",
    "score_large_pool",
    "stability_scan",
    "write_html",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name in _DEFINED_IN:
        value = getattr(importlib.import_module(_DEFINED_IN[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
