"""Fine-tuning that moves the support: gradual pruning, and regrowth at a constant size.

Elsewhere only kept codes are parameters. Here Z is dense for the time of training (`loosen`), its zeros are held by
masks (`MovingSupport`), and at the end it is what it is everywhere else (`tighten`):

    model, report = dirnet.compress(copy.deepcopy(dense), "7.9x", "prune_gradual")
    kept = loosen(model, dense)                  # before the optimizer is made
    support = MovingSupport(model, SupportSchedule("gradual", kept))
    for step in range(steps):
        ...; optimizer.step(); support.step((step + 1) / steps)
    tighten(model, kept)                         # the very layout that compress() had bought
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dirnet.compression.groups import dense_rnns
from dirnet.errors import UserError
from dirnet.factorization import blocks
from dirnet.nn.coded import CodedMatrix
from dirnet.nn.coding import CodedLayer
from dirnet.nn.grouping import gather, groups_of

UPDATES = 100  # of the masks in a schedule


@dataclass(frozen=True)
class SupportSchedule:
    """How the support moves. kept: blocks of every group in the end, None where Z stays dense.

    kind: `gradual` shrinks it from everything by the cubic rule of Zhu & Gupta (2017), and what is pruned stays so;
    `regrow` keeps its size and every now and then exchanges the smallest blocks for those with the largest gradient
    (RigL, Evci et al. 2020). regrow: the share exchanged at the start, falling to none as a cosine.
    epochs: the length of the schedule, for trainers that count in epochs; it must end before training does.
    """

    kind: Literal["gradual", "regrow"]
    kept: tuple[int | None, ...]
    epochs: int = 6
    regrow: float = 0.2

    def __post_init__(self) -> None:
        if self.epochs < 1 or not 0 < self.regrow <= 1:
            raise UserError(
                f"support: epochs {self.epochs}, regrow {self.regrow}; expected 1 or more, and more than 0 to 1"
            )


class MovingSupport:
    """The masks over the codes of a loosened model; at first, and after a resume, what is not zero.

    `step` follows every optimizer step. Nothing but the parameters needs to be saved: masks can always be read off
    the zeros; at the first step of a new object the support moves, as at the start of an epoch in ESPnet. Equal
    parameters make equal decisions, so the processes of DDP stay in step.
    """

    def __init__(self, model: nn.Module, schedule: SupportSchedule):
        groups = coded_matrices(model)
        if len(groups) != len(schedule.kept):
            raise UserError(f"support: kept has {len(schedule.kept)} groups, the model {len(groups)}; expected as many")
        pairs = zip(groups, schedule.kept, strict=True)
        self.schedule = schedule
        self.groups = [(matrix, kept) for matrix, kept in pairs if kept is not None]
        for matrix, _ in self.groups:
            if matrix.index is not None:
                raise UserError(f"codes of {matrix} are stored sparse; call loosen(model) before training")
        self.masks = [blocks.support(matrix.codes.detach(), matrix.block) for matrix, _ in self.groups]
        self.updates = -1
        # Regrowth looks at the gradients where Z is zero. Pruning must not: they would count in the clipping.
        self.hooks = [] if schedule.kind == "regrow" else [self._mask_gradient(at) for at in range(len(self.groups))]

    @torch.no_grad()
    def step(self, progress: float) -> None:
        """Hold the zeros, and move the support when it is time. progress: the part of the schedule that is done, to 1.

        Call it after `optimizer.step()` and before `zero_grad()`.
        """
        progress = min(progress, 1.0)
        number = int(progress * UPDATES)
        due, self.updates = number > self.updates, number
        for at, (matrix, kept) in enumerate(self.groups):
            if due and self.schedule.kind == "gradual":
                self.masks[at] = shrunk(matrix.codes, self.masks[at], kept, progress, matrix.block)
            elif due and matrix.codes.grad is not None:
                share = self.schedule.regrow * (1 + math.cos(math.pi * progress)) / 2
                lengths = _lengths(matrix)  # codes are compared as of unit atoms
                self.masks[at] = exchanged(
                    matrix.codes * lengths, matrix.codes.grad / lengths, self.masks[at], kept, round(share * kept),
                    matrix.block,
                )  # fmt: skip
            matrix.codes.mul_(self.masks[at])

    def close(self) -> None:
        """Take the hooks off the parameters."""
        for hook in self.hooks:
            hook.remove()

    def _mask_gradient(self, at: int):
        return self.groups[at][0].codes.register_hook(lambda gradient: gradient * self.masks[at])


def shrunk(codes: Tensor, mask: Tensor, kept: int, progress: float, block: int = 1) -> Tensor:
    """The part of `mask` (p, M) with the largest blocks of `codes`, as many as the schedule has at `progress`.

    The number falls from all blocks to `kept` as `kept + (all - kept) (1 - progress)^3` (Zhu & Gupta 2017, Eq. 1).
    """
    whole = codes.numel() // block
    number = kept + round((whole - kept) * (1 - progress) ** 3)
    return mask & blocks.largest(codes * mask, number * block, block)


def exchanged(codes: Tensor, gradient: Tensor, mask: Tensor, kept: int, exchange: int, block: int = 1) -> Tensor:
    """`kept` blocks: those of `mask` without the `exchange` smallest, and new ones where the gradient is largest.

    New codes have the value to which the optimizer just moved them from zero, so they are told from zeros.
    """
    outside = int((~mask).sum()) // block
    stay = blocks.largest(codes * mask, (kept - min(exchange, outside)) * block, block) & mask
    sizes = blocks.norms(gradient, block).clamp_min(torch.finfo(gradient.dtype).tiny)  # also where there is no gradient
    grown = blocks.largest(sizes.masked_fill(mask[:, ::block], 0.0), kept - int(stay.sum()) // block)
    return stay | blocks.expand(grown, block)


def loosen(model: nn.Module, dense: nn.Module | None = None) -> tuple[int | None, ...]:
    """Store the codes of `model`, compressed, as dense matrices, zeros included, in place; returns the kept blocks.

    dense: the model it was made of; matrices without a dictionary then take all its weights, as gradual pruning wants.
    """
    matrices = None if dense is None else _weights(dense)
    kept = []
    for at, (owner, place) in enumerate(_places(model)):
        matrix = owner.groups[place]
        if matrix.offsets is not None:
            raise UserError(f"codes of {matrix} have shifts, which a moving support cannot keep; compress without them")
        kept.append(matrix.blocks)
        codes = matrix.latent_codes()
        if matrices is not None and matrix.dictionary is None:
            codes = matrices[at].to(codes)
        if matrix.blocks is not None:
            owner.groups[place] = _rebuilt(matrix, None, codes)
    return tuple(kept)


def tighten(model: nn.Module, kept: tuple[int | None, ...]) -> None:
    """The inverse of `loosen`, in place: `kept` blocks of every group as parameters, the zeros nowhere.

    A group with more non-zero blocks than that is a `UserError`: the schedule has not come to its end.
    """
    for (owner, place), number in zip(_places(model), kept, strict=True):
        matrix = owner.groups[place]
        if number is None:
            continue
        codes = matrix.codes.detach()
        stored = blocks.count(codes, matrix.block) // matrix.block
        if stored > number:
            raise UserError(f"group {place} has {stored} blocks, expected {number}; train to the end of the schedule")
        tight = _rebuilt(matrix, number, codes)
        owner.groups[place] = tight


def coded_matrices(model: nn.Module) -> list[CodedMatrix]:
    """The coded matrices of `model`, in the order of its layers and their groups."""
    return [owner.groups[place] for owner, place in _places(model)]


def _places(model: nn.Module) -> list[tuple[CodedLayer, int]]:
    owners = [module for module in model.modules() if isinstance(module, CodedLayer)]
    if not owners:
        raise UserError(f"{type(model).__name__} has no compressed layer whose support could move; compress it first")
    return [(owner, place) for owner in owners for place in range(len(owner.groups))]


def _lengths(matrix: CodedMatrix) -> Tensor | float:
    """The norms (p, 1) of the atoms, one without a dictionary."""
    if matrix.dictionary is None:
        return 1.0
    return matrix.dictionary.norm(dim=0)[:, None].clamp_min(torch.finfo(matrix.dictionary.dtype).tiny)


def _weights(dense: nn.Module) -> list[Tensor]:
    return [
        gather({name: weight.detach() for name, weight in rnn.named_parameters()}, group)
        for rnn in dense_rnns(dense).values()
        for group in groups_of(rnn)
    ]


def _rebuilt(matrix: CodedMatrix, kept: int | None, codes: Tensor) -> CodedMatrix:
    """`matrix` with `codes` (p, M): dense for `kept` None, else its `kept` largest blocks."""
    new = CodedMatrix(matrix.rows, matrix.columns, matrix.atoms, kept, matrix.block, matrix.dtype).to(codes)
    new.vectors = matrix.vectors
    with torch.no_grad():
        if matrix.dictionary is not None:
            new.dictionary.copy_(matrix.dictionary)
        if kept is None:
            new.codes.copy_(codes)
        else:
            chosen = blocks.largest(codes, kept * matrix.block, matrix.block)
            index = chosen.view(-1, matrix.block)[:, 0].nonzero().flatten()
            new.index.copy_(index)
            new.codes.copy_(codes.reshape(-1, matrix.block)[index])
    return new.requires_grad_(matrix.codes.requires_grad).train(matrix.training)
