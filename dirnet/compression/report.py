"""What a model costs, dense or compressed: params, bytes and multiply-adds, as plain values and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from dirnet.compression.groups import MatrixGroup
from dirnet.factorization.factors import relative_norm
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig
from dirnet.nn.coded import CodedMatrix
from dirnet.nn.coding import CodedLayer
from dirnet.nn.running import CostModel, frame_seconds, is_timed, model_counts


def size_figures(model: nn.Module) -> dict[str, int]:
    """`params`, `bytes` as stored (values and indices, without the file's header), `macs_per_frame`.

    params: all parameters, of coded matrices `N p + nnz(Z)`. macs: multiply-adds of RNN and linear layers in one step,
    for an `AcousticModel` per feature frame (10 ms): a model of frame stride s steps every s frames. Element-wise work
    of the cells is not counted.
    """
    stride = model.config.frame_stride if isinstance(model, AcousticModel) else 1
    return {
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "bytes": storage.stored_bytes(model),
        "macs_per_frame": round(_macs(model) / stride),
    }


def group_figures(name: str, matrix: Tensor, coded: CodedMatrix) -> dict[str, Any]:
    """One row of the per-layer table: a group's dense `matrix` (N, M) and what became of it.

    density: kept share of Z. bytes: values and indices. relative_error: `|W - D Z|_F / |W|_F`.
    """
    kept = coded.codes.numel()
    return {
        "name": name,
        "rows": coded.rows,
        "columns": coded.columns,
        "atoms": coded.atoms,
        "nonzeros": kept,
        "density": kept / (coded.code_rows * coded.columns),
        "block": coded.block,
        "params": coded.params(),
        "bytes": coded.stored_bytes(),
        "ratio": matrix.numel() / max(coded.params(), 1),
        "relative_error": relative_norm(matrix - coded.matrix().detach().float().cpu(), matrix),
    }


def relative_error(groups: Sequence[MatrixGroup], rows: Sequence[dict[str, Any]]) -> float:
    """`|W - D Z|_F / |W|_F` of all groups as one matrix; rows: their `group_figures`."""
    energies = [float(group.matrix.double().square().sum()) for group in groups]
    errors = sum(energy * row["relative_error"] ** 2 for energy, row in zip(energies, rows, strict=True))
    return (errors / max(sum(energies), 1e-30)) ** 0.5


def running_time(cost: CostModel, dense: AcousticModelConfig, small: AcousticModelConfig) -> dict[str, Any]:
    """The real-time factors that the cost model predicts, and whose it is; nothing for a model that it cannot time."""
    if not is_timed(small):
        return {}
    predicted = [cost.seconds(model_counts(config)) / frame_seconds(config) for config in (dense, small)]
    rtf = dict(zip(("dense", "compressed"), predicted, strict=True))
    return {"rtf": rtf, "device": cost.device, "chunk": cost.chunk}


def markdown(report: dict[str, Any]) -> str:
    """`compression.md`: the totals and one line per group."""
    lines = [
        f"# {report['method']} at {report['size']}: {report['ratio']:.2f}x fewer parameters",
        "",
        "| | params | bytes | multiply-adds per frame |",
        "|---|---:|---:|---:|",
        *(
            f"| {name} | {cost['params']:,} | {cost['bytes']:,} | {cost['macs_per_frame']:,} |"
            for name, cost in (("dense", report["dense"]), ("compressed", report["compressed"]))
        ),
        "",
    ]
    if report["relative_error"] is None:
        return "\n".join([*lines, f"A dense model of {report['hidden_size']} units a layer, not yet trained.", ""])
    lines += [
        "| group | shape | atoms | density | params | bytes with indices | ratio | relative error |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in report["groups"]:
        atoms = "none" if row["atoms"] is None else row["atoms"]
        lines.append(
            f"| {row['name']} | {row['rows']}x{row['columns']} | {atoms} | {row['density']:.3f} | {row['params']:,} "
            f"| {row['bytes']:,} | {row['ratio']:.2f} | {row['relative_error']:.4f} |"
        )
    rest = report["uncompressed"]
    lines.append(f"| biases, output and all else | | | | {rest['params']:,} | {rest['bytes']:,} | 1.00 | 0 |")
    lines += ["", f"Relative error of all groups together: {report['relative_error']:.4f}."]
    if report["settings"]["dtype"] == "int8":
        lines += ["", "Dictionaries and codes are int8 with a bfloat16 scale per atom and row; all else is float32."]
    if "reconstruction" in report:
        utterances, (first, last) = report["reconstruction"]["utterances"], report["reconstruction"]["missed"]
        lines += ["", f"Then every layer learned from {utterances:,} utterances to give what the dense one gives: "
                  f"it misses {100 * last:.1f} % of the variance, before {100 * first:.1f} %."]  # fmt: skip
    if "rtf" in report:
        rtf, how = report["rtf"], f"on {report['device']}, {report['chunk']} outputs a call"
        lines += ["", f"Predicted real-time factor {how}: {rtf['compressed']:.5f}, dense {rtf['dense']:.5f} in the "
                  "same kernels."]  # fmt: skip
    return "\n".join([*lines, ""])


def _macs(model: nn.Module) -> int:
    total = 0
    for module in model.modules():
        if isinstance(module, CodedMatrix):
            total += module.macs()
        elif isinstance(module, nn.Linear):
            total += module.weight.numel()
        elif isinstance(module, nn.RNNBase | nn.RNNCellBase) and not isinstance(module, CodedLayer):
            total += sum(weight.numel() for name, weight in module.named_parameters() if name.startswith("weight"))
    return total
