"""Model inputs for prompts and their stems: all stems of a prompt in one row, or one row per stem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch as th
from numpy.typing import NDArray

from sb3_forecast.lm.tries import StemTrie


@dataclass(frozen=True)
class PromptRow:
    """A prompt with its stems.

    :param tokens: token ids of the prompt
    :param trie: the stems, as a tree of tokens
    """

    tokens: list[int]
    trie: StemTrie

    def length(self, packed: bool) -> int:
        """Tokens in the longest row of this prompt.

        :param packed: whether all stems share one row
        """
        if packed:
            return len(self.tokens) + len(self.trie.inner)
        return len(self.tokens) + int(self.trie.depths.max()) - 1

    def n_rows(self, packed: bool) -> int:
        """Number of rows of this prompt: 1 if packed, else one per stem.

        :param packed: whether all stems share one row
        """
        return 1 if packed else int(self.trie.leaf.sum())


@dataclass(frozen=True)
class Batch:
    """Rows of some prompts, and the places in the model's output where the stems are scored.

    A scored position is a token after which a token of a stem follows. An edge is one step along a stem: it starts at a scored
    position and adds one token. S is the number of scored positions, E the number of edges. All index tensors are int64.

    :param n_tokens: number of tokens without padding
    :param input_ids: token ids, shape (rows, length), int64, padded on the right
    :param position_ids: positions, shape (rows, length), int64
    :param attention: packed: additive mask, shape (rows, 1, length, length), the model's dtype. Otherwise: 0 and 1, shape
        (rows, length), int64
    :param scored: flat index (row x length) of each scored position, shape (S,): first the last token of each prompt, then the tokens
        within stems
    :param owner: number of the prompt of each scored position, shape (S,)
    :param source: scored position where each edge starts, shape (E,); edges are ordered by depth
    :param token: token of each edge, shape (E,)
    :param child: scored position where each edge ends, -1 if a stem ends there, shape (E,)
    :param depth: depth of the node where each edge ends, shape (E,)
    """

    n_tokens: int
    input_ids: th.Tensor
    position_ids: th.Tensor
    attention: th.Tensor
    scored: th.Tensor
    owner: th.Tensor
    source: th.Tensor
    token: th.Tensor
    child: th.Tensor
    depth: th.Tensor


def _edges(rows: Sequence[PromptRow], first: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Source, token, child and depth of all edges, each of shape (E,), ordered by depth.

    :param rows: the prompts
    :param first: number of the first scored inner node of each prompt, shape (prompts,)
    """
    columns: list[list[NDArray[np.int64]]] = [[], [], [], []]
    for prompt, row in enumerate(rows):
        trie = row.trie
        number = np.full(len(trie.tokens), -1, dtype=np.int64)
        number[trie.inner] = first[prompt] + np.arange(len(trie.inner))
        # scored position i is the end of prompt i, see Batch.scored
        columns[0].append(np.where(trie.parents >= 0, number[trie.parents], prompt))
        columns[1].append(trie.tokens)
        columns[2].append(number)
        columns[3].append(trie.depths)
    source, token, child, depth = (np.concatenate(column) for column in columns)
    order = np.argsort(depth, kind="stable")
    return [source[order], token[order], child[order], depth[order]]


def packed_batch(rows: Sequence[PromptRow], pad: int, dtype: th.dtype) -> Batch:
    """All stems of a prompt in one row.

    Each token of a stem sees the prompt and the tokens before it in its own stem. It has the position that it has in its stem.

    :param rows: the prompts
    :param pad: token to pad with
    :param dtype: dtype of the mask: that of the model
    :return: the batch, one row per prompt
    """
    length = max(row.length(packed=True) for row in rows)
    ids = np.full((len(rows), length), pad, dtype=np.int64)
    positions = np.zeros((len(rows), length), dtype=np.int64)
    seen = np.broadcast_to(np.tril(np.ones((length, length), dtype=np.bool_)), (len(rows), length, length)).copy()
    inner_counts = np.array([len(row.trie.inner) for row in rows], dtype=np.int64)
    first = len(rows) + np.concatenate([[0], np.cumsum(inner_counts)[:-1]])
    scored = np.empty(len(rows) + int(inner_counts.sum()), dtype=np.int64)
    owner = np.concatenate([np.arange(len(rows)), np.repeat(np.arange(len(rows)), inner_counts)])
    for i, row in enumerate(rows):
        end, inner = len(row.tokens), row.trie.inner
        stop = end + len(inner)
        ids[i, :end], ids[i, end:stop] = row.tokens, row.trie.tokens[inner]
        positions[i, :end], positions[i, end:stop] = np.arange(end), end + row.trie.depths[inner] - 1
        seen[i, end:stop, end:stop] = row.trie.ancestors()
        scored[i] = i * length + end - 1
        scored[first[i] : first[i] + len(inner)] = i * length + end + np.arange(len(inner))
    mask = th.zeros(seen.shape, dtype=dtype).masked_fill_(~th.from_numpy(seen), th.finfo(dtype).min)[:, None]
    arrays = (ids, positions, scored, owner, *_edges(rows, first))
    ids_, positions_, scored_, owner_, *edges = (th.from_numpy(array) for array in arrays)
    return Batch(int(sum(row.length(True) for row in rows)), ids_, positions_, mask, scored_, owner_, *edges)


def plain_batch(rows: Sequence[PromptRow], pad: int) -> Batch:
    """One row per stem, with an ordinary causal mask: for models that do not accept a four-dimensional mask.

    :param rows: the prompts
    :param pad: token to pad with
    :return: the batch, one row per stem
    """
    length = max(row.length(packed=False) for row in rows)
    inner_counts = np.array([len(row.trie.inner) for row in rows], dtype=np.int64)
    first = len(rows) + np.concatenate([[0], np.cumsum(inner_counts)[:-1]])
    scored = np.empty(len(rows) + int(inner_counts.sum()), dtype=np.int64)
    owner = np.concatenate([np.arange(len(rows)), np.repeat(np.arange(len(rows)), inner_counts)])
    lines: list[list[int]] = []
    for i, row in enumerate(rows):
        end, trie = len(row.tokens), row.trie
        number = {int(node): int(first[i]) + j for j, node in enumerate(trie.inner)}
        for leaf in np.flatnonzero(trie.leaf):
            path, node = [], int(trie.parents[leaf])
            while node >= 0:
                path.append(node)
                node = int(trie.parents[node])
            for depth, node in enumerate(reversed(path)):
                scored[number[node]] = len(lines) * length + end + depth
            scored[i] = len(lines) * length + end - 1
            lines.append([*row.tokens, *(int(trie.tokens[node]) for node in reversed(path))])
    ids = np.full((len(lines), length), pad, dtype=np.int64)
    attention = np.zeros((len(lines), length), dtype=np.int64)
    for i, line in enumerate(lines):
        ids[i, : len(line)], attention[i, : len(line)] = line, 1
    positions = np.broadcast_to(np.arange(length), ids.shape).copy()
    arrays = (ids, positions, attention, scored, owner, *_edges(rows, first))
    ids_, positions_, attention_, scored_, owner_, *edges = (th.from_numpy(array) for array in arrays)
    return Batch(sum(len(line) for line in lines), ids_, positions_, attention_, scored_, owner_, *edges)
