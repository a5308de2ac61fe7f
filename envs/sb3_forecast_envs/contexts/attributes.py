"""Numbers of an environment that can be set before an episode: attributes of the environment inside all wrappers, and options of its reset."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

#: a name with this beginning is an option of ``reset``
OPTION = "reset."
_PART = re.compile(r"(?P<name>\w+)(?:\[(?P<index>[\d,]+)\])?")


@dataclass(frozen=True)
class Target:
    """Where a number of a context goes.

    ``gravity`` is an attribute, ``model.opt.gravity[2]`` an entry of an array in an attribute of an attribute. With a star at the end, as in
    ``model.body_mass*``, the number multiplies what the environment has; arrays are multiplied as a whole. ``reset.low`` is an option of
    ``reset``.

    :param name: the name as the user writes it
    """

    name: str

    @property
    def is_option(self) -> bool:
        """Whether it is an option of ``reset``."""
        return self.name.startswith(OPTION)

    @property
    def multiplies(self) -> bool:
        """Whether the number multiplies what is there."""
        return self.name.endswith("*")

    def read(self, env: gym.Env[Any, Any]) -> Any:
        """The present value.

        :param env: the environment
        :return: a number, or a copy of an array
        :raises ValueError: if there is no such attribute, or it is no number
        """
        holder, key, index = self._find(env)
        value = getattr(holder, key)
        value = value if index is None else value[index]
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number, np.ndarray)):
            raise ValueError(
                f"contexts must name numbers of the environment, got {self.name!r}, which is {value!r}; name another attribute"
            )
        if isinstance(value, np.ndarray) and not self.multiplies:
            raise ValueError(
                f"contexts must name one number, got {self.name!r}, which is an array of shape {value.shape}; name an entry, as in "
                f"{self.name}[0], or multiply all of them with {self.name}*"
            )
        return value.copy() if isinstance(value, np.ndarray) else value

    def write(self, env: gym.Env[Any, Any], number: float, original: Any) -> None:
        """Set the number for the episodes that follow.

        :param env: the environment
        :param number: number of the context
        :param original: what :meth:`read` gave before any number was set
        """
        holder, key, index = self._find(env)
        value = original * number if self.multiplies else number
        if isinstance(original, (int, np.integer)) and float(value).is_integer():
            value = int(value)
        if index is not None:
            getattr(holder, key)[index] = value
        elif isinstance(original, np.ndarray):
            getattr(holder, key)[...] = value
        else:
            setattr(holder, key, value)

    def _find(self, env: gym.Env[Any, Any]) -> tuple[Any, str, tuple[int, ...] | None]:
        """The object that holds the attribute, its name, and the index in it."""
        path: list[str] = self.name.removesuffix("*").split(".")
        holder: Any = env.unwrapped
        for depth, part in enumerate(path):
            match = _PART.fullmatch(part)
            names = sorted(name for name in dir(holder) if not name.startswith("_"))
            if match is None or match["name"] not in names:
                near = difflib.get_close_matches(part, names, 3) or names[:3]
                raise ValueError(
                    f"contexts must name attributes of {type(env.unwrapped).__name__}, got {self.name!r}, and there is no {part!r}; use one of "
                    f"{', '.join('.'.join([*path[:depth], name]) for name in near)}, or an option of reset, as in reset.{part}"
                )
            index = None if match["index"] is None else tuple(int(i) for i in match["index"].split(","))
            if depth == len(path) - 1:
                return holder, match["name"], index
            holder = getattr(holder, match["name"])
            holder = holder if index is None else holder[index]
        raise AssertionError("a path has at least one part")


class ContextSetter:
    """Sets the contexts of one environment.

    :param env: the environment, not changed yet
    :param names: names of the numbers
    :raises ValueError: if a name is unknown
    """

    def __init__(self, env: gym.Env[Any, Any], names: Sequence[str]) -> None:
        self.env = env
        self.targets = [Target(name) for name in names]
        self._originals = [None if target.is_option else target.read(env) for target in self.targets]

    def set(self, context: Sequence[float]) -> dict[str, Any]:
        """Prepare the environment for an episode.

        :param context: one number per name
        :return: options for ``reset``
        """
        options = {}
        for target, original, number in zip(self.targets, self._originals, context, strict=True):
            if target.is_option:
                options[target.name.removeprefix(OPTION)] = float(number)
            else:
                target.write(self.env, float(number), original)
        return options
