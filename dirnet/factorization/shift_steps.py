"""The half-steps of Step 1 with shifts: codes with the best shift of each (Eq. 9), atoms with adjoints (Eq. 10)."""

from __future__ import annotations

import torch
from torch import Tensor

from dirnet.factorization import blocks
from dirnet.factorization.shift import Shifts

TILE = 16


def sweep(gram: Tensor, correlations: Tensor, codes: Tensor, penalties: Tensor, block: int = 1) -> None:
    """One cyclic step over the atoms of the lasso of Eq. 9, in place on tall `codes` (p |Delta|, M).

    gram: E^T E. correlations: E^T W. penalties: (p,). An atom's code in a column moves to the shift and the value that
    lower the objective most: with `b = <delta(d_i), w_j - the other atoms>` and `n = |delta(d_i)|` the value is
    `soft(b, penalty) / n^2`, the decrease `(|b| - penalty)_+^2 / (2 n^2)`. For circular shifts n = 1: the largest |b|.
    A block of columns shares its shift.
    """
    count = len(codes) // len(penalties)
    squares = gram.diagonal().clamp_min(0).view(-1, count, 1)
    lengths = squares.sqrt()
    weights = penalties.tolist()
    for start in range(0, len(weights), TILE):
        stop = min(start + TILE, len(weights))
        first = start * count
        pulls = torch.addmm(correlations[first : stop * count], gram[first : stop * count], codes, alpha=-1)
        steps = torch.empty_like(pulls)
        for atom in range(start, stop):
            own = slice(atom * count, (atom + 1) * count)
            here = slice(own.start - first, own.stop - first)
            free = torch.addmm(pulls[here], gram[own, own], codes[own])
            if atom > start:
                free.addmm_(gram[own, first : own.start], steps[: here.start], alpha=-1)
            shrunk = blocks.shrink(free.flatten(), weights[atom], block).view_as(free)
            moved = _strongest(shrunk, lengths[atom], squares[atom], block)
            torch.sub(moved, codes[own], out=steps[here])
            codes[own] = moved


def alone(gram: Tensor, correlations: Tensor, codes: Tensor, count: int, block: int = 1) -> Tensor:
    """What every code would be if it alone moved, at its best shift: tall (p |Delta|, M), the other shifts zero."""
    own = gram.view(len(gram) // count, count, -1, count).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    grid = codes.view(-1, count, codes.shape[1])
    free = torch.baddbmm(torch.addmm(correlations, gram, codes, alpha=-1).view_as(grid), own, grid)
    squares = gram.diagonal().clamp_min(0).view(-1, count, 1)
    return _strongest(free, squares.sqrt(), squares, block).view_as(codes)


def _strongest(pulls: Tensor, lengths: Tensor, squares: Tensor, block: int) -> Tensor:
    """The codes `pulls / n^2` (..., |Delta|, M) of the shifts with the largest `|pull| / n`, zero for the others."""
    inverse = torch.where(squares > 0, 1 / squares, torch.zeros_like(squares))
    sizes = pulls.abs() if block == 1 else pulls.unflatten(-1, (-1, block)).norm(dim=-1)
    best = (sizes * (inverse * lengths)).argmax(-2, keepdim=True)
    chosen = torch.zeros_like(sizes, dtype=torch.bool).scatter_(-2, best, True)
    if block > 1:
        chosen = chosen.repeat_interleave(block, dim=-1)
    return pulls * inverse * chosen


def update(dictionary: Tensor, code_gram: Tensor, cross: Tensor, shifts: Shifts) -> Tensor:
    """One block-coordinate pass over the atoms (Eq. 10), in place: each becomes the best unit vector, the others fixed.

    code_gram: Z Z^T and cross: W Z^T of tall codes. `d_k` minimises `1/2 d^T S d - t^T d` on the unit sphere, with
    `t = sum_j z_kj delta_kj^T (w_j - the other atoms)` and the diagonal `S = sum_j z_kj^2 delta_kj^T delta_kj`, the
    inverse of the paper's phi (the paper prints delta delta^T; the normal equations give delta^T delta). Circular
    shifts make S a number, and normalising t is exact. Returns the mask (p,) of dead atoms, left as they were.
    """
    expanded, count = shifts.expand(dictionary), len(shifts)
    scales = code_gram.diagonal().view(-1, count)
    usage = scales.sum(1)
    dead = usage <= torch.finfo(usage.dtype).eps * usage.max()
    seen = [shifts.adjoint(shifts.apply(torch.ones_like(dictionary[:, 0]), m), m) for m in shifts.offsets]
    seen = torch.stack(seen, dim=1)  # the diagonals of delta^T delta: the rows of an atom that a shift does not lose
    for atom in (~dead).nonzero().flatten().tolist():
        own = slice(atom * count, (atom + 1) * count)
        pulls = torch.addmm(cross[:, own], expanded, code_gram[:, own], alpha=-1)
        curvature = seen @ scales[atom]
        target = curvature * dictionary[:, atom]
        for at, offset in enumerate(shifts.offsets):
            target += shifts.adjoint(pulls[:, at], offset)
        if float(target.norm()) > 0:
            best = target / target.norm() if shifts.kind == "circular" else on_sphere(curvature, target)
            dictionary[:, atom] = best
            expanded[:, own] = shifts.expand(best[:, None])
    return dead


def on_sphere(curvature: Tensor, target: Tensor) -> Tensor:
    """The unit vector d (N,) that minimises `1/2 sum_n curvature_n d_n^2 - target^T d`.

    `d = (S + mu)^-1 t`, which is the paper's `phi t` with the multiplier mu of |d| = 1 in it: to normalise `phi t`
    instead can raise the objective. mu is found by Newton's method on `1 / |d|`, concave in mu, from the left (More and
    Sorensen 1983). Rows that no code reads are free and take what is missing.
    """
    bends, pull = (curvature - curvature.min()).double(), target.double()
    mu = max(float((pull.abs() - bends).max()), 1e-12 * float(pull.norm()))  # here |d| >= 1, if anywhere
    for _ in range(50):
        best = pull / (bends + mu)
        length = float(best.norm())
        if length <= 1 + 1e-12:
            break
        mu += (length - 1) * length**2 / float(best.square() @ (1 / (bends + mu)))
    if length < 1 - 1e-9:
        flattest = int(bends.argmin())
        best[flattest] += (-1 if best[flattest] < 0 else 1) * (1 - length**2) ** 0.5
    return (best / best.norm()).to(target.dtype)
