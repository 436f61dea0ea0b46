"""The denominator of sMBR: every phone sequence, weighted by an n-gram, over the CTC topology; no lattices.

An n-gram of N contexts gives 2N states. State n < N: the last phone of context n is being spoken; state N + n: blank
after it. The start speaks nothing: its blank is where sentences start from, and its other state is never entered.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dirnet.asr.phone_ngram import PhoneNgram

BLANK = 0
DENSE_STATES = 256  # up to here a product with all transitions is faster than one with the possible ones


@dataclass(frozen=True)
class DenominatorGraph:
    """Weights (not logarithms) of a graph of S states.

    enter (S,), leave (S,): of starting in a state (its first frame is still to come), of ending after it; outputs (S,)
    the network output of a state. arcs: matrices whose product, the last one first, is (S, S), from column to row; one
    dense matrix for a bigram, sparse (CSR) ones for higher orders, backing off and stepping on. arcs_back: the same
    transposed, in reverse.
    """

    enter: Tensor
    leave: Tensor
    outputs: Tensor
    arcs: tuple[Tensor, ...]
    arcs_back: tuple[Tensor, ...]

    @classmethod
    def build(cls, ngram: PhoneNgram) -> DenominatorGraph:
        """The graph of an n-gram, float64 on the CPU.

        Contexts back off first, phones come after: the way from state s to s' is the sum over the contexts in which s
        may be looked at. A phone said twice takes a blank between; without it, it goes on.
        """
        n, start = len(ngram.contexts), ngram.phones
        states = np.arange(n)
        seen_as, seen_in, seen_weight = _contexts_seen(ngram)
        goes_on = ngram.arc_to >= 0
        source, phone, target, weight = (
            array[goes_on] for array in (ngram.arc_from, ngram.arc_phone, ngram.arc_to, ngram.arc_weight)
        )
        same = phone == ngram.last[source]
        # between the two matrices: n contexts after any state, n after a blank alone, and the 2n states themselves
        back_off = _matrix(
            (4 * n, 2 * n),
            [(seen_in, seen_as, seen_weight), (seen_in, n + seen_as, seen_weight),
             (n + seen_in, n + seen_as, seen_weight), (2 * n + np.arange(2 * n), np.arange(2 * n), np.ones(2 * n))],
        )  # fmt: skip
        step = _matrix(
            (2 * n, 4 * n),
            [(target[~same], source[~same], weight[~same]), (target[same], n + source[same], weight[same]),
             (states, 2 * n + states, np.ones(n)), (n + states, 2 * n + states, np.ones(n)),
             (n + states, 3 * n + states, np.ones(n))],
        )  # fmt: skip
        ends = ngram.arc_phone == ngram.phones
        end = np.bincount(ngram.arc_from[ends], ngram.arc_weight[ends], n)
        end = np.bincount(seen_as, seen_weight * end[seen_in], n)
        first = torch.zeros(2 * n, dtype=torch.float64)
        first[n + start] = 1.0
        outputs = np.concatenate([np.where(ngram.last == ngram.phones, BLANK, ngram.last + 1), np.full(n, BLANK)])
        arcs = (step, back_off)
        if 2 * n <= DENSE_STATES:
            arcs = ((step @ back_off).to_dense(),)
            enter = arcs[0] @ first
        else:
            enter = (step @ (back_off @ first[:, None]))[:, 0]
        return cls(
            enter=enter,
            leave=torch.from_numpy(np.concatenate([end, end])),
            outputs=torch.from_numpy(outputs).long(),
            arcs=arcs,
            arcs_back=tuple(_transposed(matrix) for matrix in reversed(arcs)),
        )

    def __deepcopy__(self, memo: dict) -> DenominatorGraph:
        """Itself: it never changes, and torch cannot copy its sparse matrices."""
        return self

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> DenominatorGraph:
        """The same graph on `device`, its weights in `dtype`; itself where nothing changes."""
        dtype = dtype or self.enter.dtype
        if self.enter.device == torch.device(device) and self.enter.dtype == dtype:
            return self
        return DenominatorGraph(
            self.enter.to(device, dtype),
            self.leave.to(device, dtype),
            self.outputs.to(device),
            *(tuple(matrix.to(device, dtype) for matrix in arcs) for arcs in (self.arcs, self.arcs_back)),
        )

    def step(self, states: Tensor) -> Tensor:
        """One frame on: columns of weights (S, K)."""
        for matrix in reversed(self.arcs):
            states = matrix @ states
        return states

    def step_back(self, states: Tensor) -> Tensor:
        """One frame back: columns of weights (S, K)."""
        for matrix in reversed(self.arcs_back):
            states = matrix @ states
        return states


def _contexts_seen(ngram: PhoneNgram) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(context, itself or one that it backs off to, probability of getting there), as three arrays."""
    every = np.arange(len(ngram.contexts))
    here, weight = every, np.ones(len(every))
    found = [(every, here, weight)]
    while True:
        weight, here = weight * ngram.backoff[here], ngram.shorter[here]
        there = weight > 0
        if not there.any():
            return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))
        every, here, weight = every[there], here[there], weight[there]
        found.append((every, here, weight))


def _matrix(shape: tuple[int, int], parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Tensor:
    """A CSR matrix of (row, column, value) parts; what lands on one place adds up."""
    rows, columns, values = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    indices = torch.from_numpy(np.stack([rows, columns]).astype(np.int64))
    with torch.sparse.check_sparse_tensor_invariants(enable=True):
        return _csr(torch.sparse_coo_tensor(indices, torch.from_numpy(values).double(), shape))


def _csr(matrix: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls the format a beta
        return matrix.coalesce().to_sparse_csr()


def _transposed(matrix: Tensor) -> Tensor:
    if matrix.layout == torch.strided:
        return matrix.T.contiguous()
    return _csr(matrix.to_sparse_coo().transpose(0, 1))
