"""The costs that environments report, read in one place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def step_costs(infos: Sequence[dict[str, Any]], reader: str) -> NDArray[np.float64]:
    """Read the cost of one step of each environment.

    :param infos: info of each environment
    :param reader: who needs the costs; named in the error
    :return: costs, shape (environments,)
    :raises ValueError: if an environment reports no cost
    """
    for env, info in enumerate(infos):
        if "cost" not in info:
            raise ValueError(
                f"env must report info['cost'] at every step for {reader}, got an info without it from environment {env}; "
                "use 1.0 for a step that fails, else 0.0"
            )
    return np.array([info["cost"] for info in infos], dtype=np.float64)
