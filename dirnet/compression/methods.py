"""The methods of `conf/compress.yaml`: what factorizes the groups of matrices, and what that is to respect."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from dirnet.compression.budget import Size
from dirnet.config import check_choices, from_mapping, read_yaml
from dirnet.errors import UserError, did_you_mean
from dirnet.factorization import shrinkage
from dirnet.factorization.shift import Shifts
from dirnet.factorization.solve import PRESETS as PRESETS  # for the command lines
from dirnet.nn.grouping import can_share
from dirnet.nn.quantised import check_dtype
from dirnet.nn.running import executed_block


@dataclass(frozen=True)
class Method:
    """One method; conf/compress.yaml tells each field's use, `dirnet.compression.solvers` carries it out.

    solver: `dense` keeps every value (with int8 it is the plain quantisation that the others have to beat), `small` is
    a smaller dense model, not yet trained. preset, block, shifts: see `dirnet.factorization.solve`.
    """

    solver: Literal["dirnet", "svd", "odl", "prune", "dense", "small"]
    preset: Literal["best", "paper"] = "best"
    block: int = 1
    # How the budget is divided over the groups: to leave the least squared error; every group shrunk by the same
    # factor; by what the model's output loses on calibration data; svd ranks that explain the same share everywhere.
    allocation: Literal["error", "equal", "output", "variance"] = "error"
    # Step 2 of preset paper, see `shrinkage.Schedule`.
    vartheta: float = shrinkage.VARTHETA
    gamma: float = shrinkage.GAMMA
    penalty: float | None = None
    fill: bool = True
    # How the values of D and Z are kept, also while the model is fine-tuned.
    dtype: Literal["float32", "int8"] = "float32"
    # Delta of Eq. 9: by how many rows codes may move their atoms, and how; solver dirnet only.
    shifts: int = 0
    shift_kind: Literal["circular", "zero"] = "circular"
    # The matrix that reads the features has a dictionary of its own, stays dense, or, of a single layer with as many
    # inputs as units, shares one with W_h (Sec. 3.5). auto: shared in such layers, own in others.
    input_group: Literal["own", "shared", "auto", "dense"] = "own"
    # Of the error by calibration data. activation: rows, by the second moment of what they multiply, of which the
    # share `identity` is the plain error's; fisher: also columns, by the output's mean squared gradient. Both keep the
    # mean of every gate value in the biases. auto: fisher where there is data, else none.
    weighting: Literal["none", "activation", "fisher", "auto"] = "none"
    identity: float = 0.5
    # Where `block` is above 1, hidden units change places so that like gate rows share blocks.
    permute: bool = False
    # D fits all matrices that read the vector; false, as in the paper: W_h alone (Eq. 5), and W_x gets codes (Eq. 7).
    joint: bool = True
    # What fine-tuning does with the zeros (see `support`): keeps them; shrinks the dense model to this size (solver
    # prune); exchanges codes.
    support: Literal["fixed", "gradual", "regrow"] = "fixed"

    def __post_init__(self) -> None:
        check_choices(self)
        schedule = (self.vartheta, self.gamma, 1.0 if self.penalty is None else self.penalty)
        if not all(0 < value < math.inf for value in schedule):
            raise UserError(f"vartheta {self.vartheta}, gamma {self.gamma}, penalty {self.penalty}: expected above 0")
        if self.preset != "paper" and self.schedule != shrinkage.Schedule():
            raise UserError(f"vartheta, gamma, penalty and fill belong to preset paper, not {self.preset}")
        if not isinstance(self.block, int) or self.block < 1:
            raise UserError(f"block is {self.block!r}, expected 1 or more gate rows")
        if self.solver in ("svd", "dense", "small") and self.block != 1:
            raise UserError(f"block is {self.block}, expected 1: what solver {self.solver} keeps is dense")
        if self.solver == "small" and self.dtype != "float32":
            raise UserError(f"dtype is {self.dtype}, expected float32: solver small makes torch's own layers")
        if self.solver != "svd" and self.allocation == "variance":
            raise UserError(f"allocation is variance, expected error, equal or output: solver {self.solver} is not svd")
        if self.allocation == "variance" and self.input_group == "dense":
            raise UserError("allocation is variance, expected error or equal where input_group is dense")
        if self.solver != "dirnet" and self.shifts:
            raise UserError(f"shifts is {self.shifts}, expected 0: only solver dirnet moves atoms")
        if self.solver != "dirnet" and not self.joint:
            raise UserError(f"joint is false, expected true: solver {self.solver} has no dictionary of W_h alone")
        _ = self.delta  # checks both
        if self.weighting != "none" and (self.shifts or self.may_share):
            # a weighting turns the rows of W, which shifts count; two vectors that share D have no one moment
            raise UserError(f"weighting is {self.weighting}, expected none with shifts or input_group shared or auto")
        if self.permute and self.block > 1 and self.may_share:
            raise UserError(f"permute is true, expected false with input_group {self.input_group}: units and inputs "
                            "share an order")  # fmt: skip
        if self.support == "gradual" and self.solver != "prune":
            raise UserError(f"support is gradual, expected fixed or regrow: solver {self.solver} is not prune")
        if self.support == "gradual" and (self.weighting != "none" or self.permute or self.may_share):
            raise UserError("support is gradual, which starts from the dense weights as they are; expected "
                            "weighting none, permute false and input_group own or dense")  # fmt: skip
        if self.support != "fixed" and self.shifts:
            raise UserError(f"support is {self.support}, expected fixed with shifts: a moved code keeps no offset")
        if self.support == "regrow" and self.solver in ("svd", "dense", "small"):
            raise UserError(f"support is regrow, expected fixed: a model of solver {self.solver} has no zeros")
        if not 0 < self.identity <= 1:
            raise UserError(f"identity is {self.identity:g}, expected above 0 and at most 1")

    @property
    def schedule(self) -> shrinkage.Schedule:
        """The settings of Step 2."""
        return shrinkage.Schedule(self.vartheta, self.gamma, self.penalty, self.fill)

    @property
    def delta(self) -> Shifts:
        """The set of shifts."""
        return Shifts(self.shifts, self.shift_kind)

    @property
    def may_share(self) -> bool:
        """Whether a layer's W_x may get the dictionary of its W_h."""
        return self.input_group in ("shared", "auto")

    def grouping(self, rnn: nn.RNNBase) -> str:
        """The `input_group` of `groups_of(rnn)`: a dense input is a group of its own, too."""
        return "shared" if self.input_group == "shared" or (self.input_group == "auto" and can_share(rnn)) else "own"

    @property
    def needs_data(self) -> bool:
        """Whether it cannot do without calibration data."""
        return self.weighting in ("activation", "fisher") or self.allocation == "output"

    @property
    def uses_data(self) -> bool:
        """Whether it makes use of calibration data."""
        return self.needs_data or self.weighting == "auto"

    @property
    def can_reconstruct(self) -> bool:
        """Whether layers come of it that can learn to give what the dense ones give, and keep what they learn."""
        return (
            self.support != "gradual" and self.solver != "small" and (self.solver, self.dtype) != ("dense", "float32")
        )

    @property
    def weighting_with_data(self) -> str:
        """`weighting`, with data at hand: `none`, `activation` or `fisher`."""
        return "fisher" if self.weighting == "auto" else self.weighting

    def check_size(self, size: Size, rnns: Iterable[nn.RNNBase] = ()) -> None:
        """A `UserError` for a size in time where the codes' time, in these `rnns`, cannot be counted."""
        if size.kind == "rtf" and self.shifts:
            raise UserError(f"size {size.text!r} does not go with shifts {self.shifts}: the cost model does not know "
                            "them; give params or bytes")  # fmt: skip
        shared = self.input_group == "shared" or any(self.grouping(rnn) == "shared" for rnn in rnns)
        if size.kind == "rtf" and shared:
            raise UserError(f"size {size.text!r} does not go with input_group shared: the cost model does not know it; "
                            "give params or bytes")  # fmt: skip
        if size.kind == "rtf" and executed_block(self.block) == 1 and self.solver in ("odl", "prune"):
            raise UserError(f"size {size.text!r} does not go with single codes of solver {self.solver}: their mask "
                            "takes as long however few they are; give a block of 8, or params or bytes")  # fmt: skip

    def changed(self, block: int | None = None, preset: str | None = None, dtype: str | None = None) -> Method:
        """This method with another block, dtype or preset, which brings along the settings that belong to it."""
        changes = {"block": block, "preset": preset, "dtype": dtype if dtype is None else check_dtype(dtype)}
        if preset is not None and self.solver != "dirnet":
            raise UserError(f"--preset {preset} is one of solver dirnet, not of {self.solver}; leave it out")
        if preset == "best" and self.preset == "paper":
            group = "own" if self.input_group == "auto" else self.input_group
            bound = self.shifts or group == "shared"  # which exclude both
            changes |= {"joint": True, "input_group": group}
            changes |= {} if bound else {"weighting": "auto", "permute": True}
        if preset == "paper" and self.preset == "best":  # as published
            changes |= {"weighting": "none", "permute": False, "allocation": "equal", "joint": False}
            changes |= {"input_group": "auto"} if self.input_group == "own" else {}
        return dataclasses.replace(self, **{name: value for name, value in changes.items() if value is not None})


METHODS = {
    "dirnet": Method("dirnet", allocation="equal", weighting="auto", permute=True),
    "dirnet_b4": Method("dirnet", block=4, allocation="equal", weighting="auto", permute=True),
    "dirnet_b8": Method("dirnet", block=8, allocation="equal", weighting="auto", permute=True),
    "dirnet_b16": Method("dirnet", block=16, allocation="equal", weighting="auto", permute=True),
    "dirnet_int8": Method("dirnet", allocation="equal", weighting="auto", permute=True, dtype="int8"),
    "dirnet_b8_int8": Method("dirnet", block=8, allocation="equal", weighting="auto", permute=True, dtype="int8"),
    "dirnet_paper": Method("dirnet", preset="paper", allocation="equal", joint=False, input_group="auto"),
    "svd": Method("svd"),
    "svd_int8": Method("svd", dtype="int8"),
    "odl": Method("odl", allocation="equal"),
    "prune": Method("prune"),
    "prune_gradual": Method("prune", support="gradual"),
    "dense": Method("dense"),
    "small": Method("small"),
}


def find_method(name: str, methods: Mapping[str, Method] = METHODS) -> Method:
    """The method of that name; an unknown one is a `UserError`."""
    if name not in methods:
        more = "; more are in conf/compress.yaml, for --config" if methods is METHODS else ""
        raise UserError(f"method {name!r} is unknown; {did_you_mean(name, methods)}{more}")
    return methods[name]


def check_trainable(name: str, method: Method) -> None:
    """A `UserError` for a method that ESPnet's training programs cannot carry out."""
    if method.support != "fixed" or method.solver == "small":
        raise UserError(f"method {name} is not for ESPnet's models: their training keeps every zero where it is; "
                        "choose one with support: fixed, such as dirnet")  # fmt: skip


def load_methods(path: str | Path) -> dict[str, Method]:
    """The methods of a YAML file of `name: {solver: ..., ...}` lines."""
    methods = {}
    for name, mapping in read_yaml(path).items():
        if not isinstance(mapping, dict):
            raise UserError(f"{path}: {name} is {mapping!r}, expected {{solver: dirnet, ...}}")
        methods[str(name)] = from_mapping(Method, mapping, f"{path}: {name}")
    if not methods:
        raise UserError(f"{path} holds no method; write lines such as `dirnet: {{solver: dirnet}}`")
    return methods
