"""Every public name is documented."""

from __future__ import annotations

import importlib
import inspect

import pytest


@pytest.mark.parametrize("package", ["sb3_forecast", "sb3_forecast_envs", "sb3_forecast.cluster"])
def test_every_public_name_has_a_docstring(package):
    module = importlib.import_module(package)
    missing = []
    for name in module.__all__:
        found = getattr(module, name)
        if inspect.isclass(found) or inspect.isfunction(found):
            if not (found.__doc__ or "").strip():
                missing.append(name)
            if inspect.isclass(found):
                missing += [
                    f"{name}.{member}"
                    for member, value in vars(found).items()
                    if not member.startswith("_") and inspect.isfunction(value) and not (value.__doc__ or "").strip()
                ]
    assert missing == []
