"""What a function of the user is, as a text: two pools are the same only if their functions do the same.

The text is a checksum of the function's code, its defaults, the variables that it closes over and the global names that it uses. It is the
same in every process. Where a value says nothing about itself, the user is asked for a name.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th

_PLAIN = (str, bytes, int, float, complex, bool, type(None), type(Ellipsis), np.generic)


class UnknownIdentityError(ValueError):
    """A value of which nothing is known that tells it from others."""


def fingerprint(value: Any) -> str:
    """A checksum of what a function or value is made of.

    :param value: function, method, partial, object, or plain value
    :return: 16 hexadecimal digits
    :raises UnknownIdentityError: if it holds an object that has no attributes and no plain value
    """
    return hashlib.sha256(_text(value, frozenset()).encode()).hexdigest()[:16]


def environment_text(env: gym.Env[Any, Any]) -> str:
    """Checksum of an environment: its id and arguments, the source of its class and wrappers, and the versions of their packages.

    :param env: the environment
    :return: 16 hexadecimal digits
    """
    parts = []
    layer: Any = env
    while True:
        parts.append(_class_text(type(layer)))
        if not isinstance(layer, gym.Wrapper):
            break
        layer = layer.env
    spec = env.unwrapped.spec
    if spec is not None:
        parts.append(
            f"{spec.id} {spec.max_episode_steps} {sorted((name, repr(value)) for name, value in spec.kwargs.items() if name != 'render_mode')}"
        )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _class_text(cls: type) -> str:
    """Name, package version and source of a class and of those it inherits from. A class that was typed into a console has no source."""
    parts = []
    for each in cls.__mro__[:-1]:
        try:
            source = inspect.getsource(each)
        except (OSError, TypeError):
            source = ""
        parts.append(f"{each.__module__}.{each.__qualname__} {_version(each.__module__)} {source}")
    return "\n".join(parts)


def _version(module: str) -> str:
    try:
        return version(module.partition(".")[0].replace("_", "-"))
    except (PackageNotFoundError, ValueError):
        return ""


def _text(value: Any, above: frozenset[int]) -> str:
    if isinstance(value, _PLAIN):
        return repr(value)
    if id(value) in above:
        # a function that calls itself, an object that holds itself
        return "..."
    above |= {id(value)}
    if isinstance(value, FunctionType):
        return _function(value, above)
    if isinstance(value, (MethodType, functools.partial)):
        parts = (value.__func__, value.__self__) if isinstance(value, MethodType) else (value.func, value.args, value.keywords)
        return f"{type(value).__name__}({', '.join(_text(part, above) for part in parts)})"
    if isinstance(value, CodeType):
        return f"code({value.co_code.hex()}, {_text(value.co_consts, above)}, {value.co_names})"
    if isinstance(value, ModuleType):
        return f"{value.__name__} {_version(value.__name__)}"
    if isinstance(value, type):
        return _class_text(value)
    if isinstance(value, BuiltinFunctionType):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}({', '.join(_text(entry, above) for entry in value)})"
    if isinstance(value, (set, frozenset)):
        return f"set({sorted(_text(entry, above) for entry in value)})"
    if isinstance(value, Mapping):
        return f"dict({sorted((_text(k, above), _text(v, above)) for k, v in value.items())})"
    if isinstance(value, np.ndarray):
        return f"array({value.dtype}, {value.shape}, {hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()})"
    if isinstance(value, gym.Env):
        return environment_text(value)
    if isinstance(value, th.Tensor):
        return f"tensor({_text(value.detach().cpu().numpy(), above)})"
    slots = [name for cls in type(value).__mro__ for name in getattr(cls, "__slots__", ()) if hasattr(value, name)]
    attributes = {**{name: getattr(value, name) for name in slots}, **getattr(value, "__dict__", {})}
    if not attributes and not _has_source(type(value)):
        # a generator, a handle, something of a compiled library: its content is out of reach
        raise UnknownIdentityError(f"{type(value).__module__}.{type(value).__qualname__}")
    return f"{_class_text(type(value))} {_text(attributes, above)}"


def _has_source(cls: type) -> bool:
    try:
        return bool(inspect.getsource(cls))
    except (OSError, TypeError):
        return False


def _function(function: FunctionType, above: frozenset[int]) -> str:
    closed = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    used = {name: function.__globals__[name] for name in _names(function.__code__) if name in function.__globals__}
    # functions of installed packages are told by version; those of the same module may change between two runs
    own = {
        name: value if getattr(value, "__module__", None) in (None, function.__module__) else f"{name} {_home(value)}"
        for name, value in used.items()
    }
    return f"function({', '.join(_text(v, above) for v in (function.__code__, function.__defaults__, function.__kwdefaults__, closed, own))})"


def _home(value: Any) -> str:
    module = value.__module__
    return f"{module}.{getattr(value, '__qualname__', type(value).__qualname__)} {_version(module)}"


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _names(code: CodeType) -> set[str]:
    """Global names that a code uses, in its inner functions, too."""
    inner = (const for const in code.co_consts if isinstance(const, CodeType))
    return set(code.co_names).union(*(_names(each) for each in inner))
