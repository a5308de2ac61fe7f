"""The stems of a prompt as a tree of tokens. With it, stems are disjoint events, cheap to score, and exact near p = 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class StemTrie:
    """Stems as a tree: stems with the same beginning share its nodes.

    Nodes are ordered by depth, so a parent comes before its children.

    :param tokens: token of each node, shape (nodes,), int64
    :param parents: parent of each node, -1 for the end of the prompt, shape (nodes,), int64
    :param depths: depth of each node, 1 for the first token of a reply, shape (nodes,), int64
    :param leaf: whether a stem ends at the node, shape (nodes,), boolean
    """

    tokens: NDArray[np.int64]
    parents: NDArray[np.int64]
    depths: NDArray[np.int64]
    leaf: NDArray[np.bool_]

    @property
    def inner(self) -> NDArray[np.int64]:
        """Nodes that are fed to the model because another token follows them; ascending, int64."""
        return np.flatnonzero(~self.leaf)

    def ancestors(self) -> NDArray[np.bool_]:
        """Whether an inner node (row) may attend to another one (column): to itself and to its ancestors.

        :return: shape (inner nodes, inner nodes), boolean
        """
        inner = self.inner
        position = {int(node): i for i, node in enumerate(inner)}
        seen = np.eye(len(inner), dtype=np.bool_)
        for i, node in enumerate(inner):
            parent = int(self.parents[node])
            if parent >= 0:
                seen[i] |= seen[position[parent]]
        return seen


def build_trie(stems: Sequence[Sequence[int]], names: Sequence[str]) -> StemTrie:
    """Build the tree of some stems.

    :param stems: token ids of each stem
    :param names: text of each stem, for error messages
    :return: the tree
    :raises ValueError: if there is no stem; if a stem has no tokens; if a stem is repeated or is the beginning of another one (then the
        events are not disjoint)
    """
    if not stems:
        raise ValueError(
            "targets must hold at least one stem for every prompt, got an empty list; use the beginning of a reply that fails"
        )
    for stem, name in zip(stems, names, strict=True):
        if not len(stem):
            raise ValueError(
                f"a stem must have at least one token, got {name!r}, which has none; use a text that is not empty"
            )
    paths = {tuple(stem): name for stem, name in zip(stems, names, strict=True)}
    ordered = sorted(paths)
    if len(paths) < len(stems):
        raise ValueError(f"stems of a prompt must have different tokens, got {list(names)}; remove the repeated one")
    # in lexicographic order, a stem that begins others comes directly before one of them
    for shorter, longer in pairwise(ordered):
        if longer[: len(shorter)] == shorter:
            raise ValueError(
                f"a stem must not be the beginning of another one, got {paths[shorter]!r} and {paths[longer]!r}: the second "
                "would be counted twice; keep only the shorter one"
            )
    prefixes = sorted({path[:n] for path in paths for n in range(1, len(path) + 1)}, key=lambda prefix: (len(prefix), prefix))
    number = {prefix: i for i, prefix in enumerate(prefixes)}
    return StemTrie(
        tokens=np.array([prefix[-1] for prefix in prefixes], dtype=np.int64),
        parents=np.array([number.get(prefix[:-1], -1) for prefix in prefixes], dtype=np.int64),
        depths=np.array([len(prefix) for prefix in prefixes], dtype=np.int64),
        leaf=np.array([prefix in paths for prefix in prefixes], dtype=np.bool_),
    )
