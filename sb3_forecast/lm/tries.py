"""Target replies as a tree of tokens: what makes several stems of one reply disjoint, cheap to score, and exact near p = 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class StemTrie:
    """Stems that share their common beginnings. Nodes are ordered by depth, so parents come before children.

    :param tokens: token of each node, int64
    :param parents: parent of each node, -1 for the end of the prompt, int64
    :param depths: 1 for a reply's first token, int64
    :param leaf: which nodes end a stem
    """

    tokens: NDArray[np.int64]
    parents: NDArray[np.int64]
    depths: NDArray[np.int64]
    leaf: NDArray[np.bool_]

    @property
    def inner(self) -> NDArray[np.int64]:
        """Nodes that are fed to the model, since something follows them; ascending."""
        return np.flatnonzero(~self.leaf)

    def ancestors(self) -> NDArray[np.bool_]:
        """Which inner node (column) each inner node (row) may look at: itself and those on its way from the prompt."""
        inner = self.inner
        position = {int(node): i for i, node in enumerate(inner)}
        seen = np.eye(len(inner), dtype=np.bool_)
        for i, node in enumerate(inner):
            parent = int(self.parents[node])
            if parent >= 0:
                seen[i] |= seen[position[parent]]
        return seen


def build_trie(stems: Sequence[Sequence[int]], names: Sequence[str]) -> StemTrie:
    """A tree of the stems' tokens.

    :param stems: tokens of each stem
    :param names: their texts, for messages
    :return: the tree
    :raises ValueError: if there is none, one is empty, or one is the beginning of another (then they are no disjoint events)
    """
    if not stems:
        raise ValueError(
            "targets holds a prompt without any stem; give each prompt at least one reply that counts as a failure"
        )
    for stem, name in zip(stems, names, strict=True):
        if not len(stem):
            raise ValueError(f"target {name!r} has no tokens in this tokenizer; use a text that it knows")
    paths = {tuple(stem): name for stem, name in zip(stems, names, strict=True)}
    ordered = sorted(paths)
    if len(paths) < len(stems):
        raise ValueError(f"targets {list(names)} hold the same tokens twice; remove the repeated one")
    # in lexicographic order a stem stands right before the first one that it begins
    for shorter, longer in pairwise(ordered):
        if longer[: len(shorter)] == shorter:
            raise ValueError(
                f"target {paths[shorter]!r} is the beginning of {paths[longer]!r}, so that the second is counted twice; keep "
                f"only the shorter one"
            )
    prefixes = sorted({path[:n] for path in paths for n in range(1, len(path) + 1)}, key=lambda prefix: (len(prefix), prefix))
    number = {prefix: i for i, prefix in enumerate(prefixes)}
    return StemTrie(
        tokens=np.array([prefix[-1] for prefix in prefixes], dtype=np.int64),
        parents=np.array([number.get(prefix[:-1], -1) for prefix in prefixes], dtype=np.int64),
        depths=np.array([len(prefix) for prefix in prefixes], dtype=np.int64),
        leaf=np.array([prefix in paths for prefix in prefixes], dtype=np.bool_),
    )
