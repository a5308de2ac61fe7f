"""What an HTML report is made of."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sb3_forecast.measuring.plots import EvaluatedTail


class Evaluated(EvaluatedTail, Protocol):
    """The parts of a :class:`~sb3_forecast.ForecastReport` that a page needs, besides its measures."""

    @property
    def held(self) -> bool | None:
        """Whether the forecast held; ``None`` if nothing was forecast."""

    @property
    def scorer(self) -> str:
        """Class of the scorer."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Reasons not to trust the scores."""

    def verdict(self) -> str:
        """One sentence: whether the forecast held."""


@dataclass(frozen=True)
class Example:
    """A task that is shown because it fails.

    :param label: its name
    :param failure: its failure probability
    :param text: what it is, such as a prompt
    :param replies: what was answered to it
    :param picture: a picture or film of it; ``None`` for none
    """

    label: str
    failure: float
    text: str = ""
    replies: Sequence[str] = ()
    picture: str | pathlib.Path | None = None
