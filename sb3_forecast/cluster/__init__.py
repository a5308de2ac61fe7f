"""Scoring on many machines, with Ray Data. Needs the extra ``cluster``."""

from importlib.util import find_spec

_MISSING = [package for package in ("ray", "pyarrow") if find_spec(package) is None]
if _MISSING:
    raise ImportError(f"sb3_forecast.cluster needs {', '.join(_MISSING)}; run `pip install 'sb3-forecast[cluster]'`")

from sb3_forecast.cluster.folder import read_errors, read_scores  # noqa: E402  # only after the check for missing packages
from sb3_forecast.cluster.rounds import Workers  # noqa: E402
from sb3_forecast.cluster.scoring import score  # noqa: E402

__all__ = ["Workers", "read_errors", "read_scores", "score"]
