"""Failure forecasts for language models: scores of prompts, a trainer, and the password game. Needs the extra ``lm``."""

from importlib.util import find_spec

_MISSING = [package for package in ("transformers", "peft", "accelerate") if find_spec(package) is None]
if _MISSING:
    raise ImportError(f"sb3_forecast.lm needs {', '.join(_MISSING)}; run `pip install 'sb3_forecast[lm]'`")

from sb3_forecast.lm.baselines import RefusalPenalty, WorstScoresLoss  # noqa: E402  # only after the check for missing packages
from sb3_forecast.lm.describing import describe_prompts, mode_replies  # noqa: E402
from sb3_forecast.lm.examples import PadOnTheRight, training_rows  # noqa: E402
from sb3_forecast.lm.generation import generate_replies  # noqa: E402
from sb3_forecast.lm.password_game.game import Example, PasswordGame, primary_examples  # noqa: E402
from sb3_forecast.lm.password_game.players import load_player, with_adapter  # noqa: E402
from sb3_forecast.lm.password_game.primary import primary_accuracy  # noqa: E402
from sb3_forecast.lm.password_game.smollm2 import smollm2  # noqa: E402
from sb3_forecast.lm.password_game.tiny import TinyRecipe, tiny_model  # noqa: E402
from sb3_forecast.lm.penalty import ForecastPenalty, ShardedScorer  # noqa: E402
from sb3_forecast.lm.prompt_tasks import PromptScorers, PromptTasks  # noqa: E402
from sb3_forecast.lm.sampling import SampledLeak, SampledReplies  # noqa: E402
from sb3_forecast.lm.scorer import LMFailureScorer  # noqa: E402
from sb3_forecast.lm.trainer import ForecastTrainer, last_whole_checkpoint  # noqa: E402

__all__ = [
    "Example",
    "ForecastPenalty",
    "ForecastTrainer",
    "LMFailureScorer",
    "PadOnTheRight",
    "PasswordGame",
    "PromptScorers",
    "PromptTasks",
    "RefusalPenalty",
    "SampledLeak",
    "SampledReplies",
    "ShardedScorer",
    "TinyRecipe",
    "WorstScoresLoss",
    "describe_prompts",
    "generate_replies",
    "last_whole_checkpoint",
    "load_player",
    "mode_replies",
    "primary_accuracy",
    "primary_examples",
    "smollm2",
    "tiny_model",
    "training_rows",
    "with_adapter",
]
