"""The model card of a package: README.md as the Hugging Face hub reads it, figures only from the experiment's files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml

import dirnet
from dirnet.asr.tokens import type_of
from dirnet.compression.report import size_figures
from dirnet.errors import UserError
from dirnet.files import read_json
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel

TASK = "automatic-speech-recognition"


@dataclasses.dataclass(frozen=True)
class About:
    """What no experiment knows, left out where nobody says it.

    language: a code such as en; license: an identifier of the hub; datasets: names there, or of the corpus.
    """

    language: str | None = None
    license: str | None = None
    datasets: tuple[str, ...] = ()


def card(exp: Path, model: AcousticModel, package: str, about: About | None = None) -> str:
    """The card of the model in the folder `exp`, packed as the file called `package`."""
    about = about or About()
    front = {
        "tags": ["espnet", "audio", TASK], "language": about.language, "datasets": list(about.datasets),
        "license": about.license, "library_name": "espnet", "pipeline_tag": TASK,
    }  # fmt: skip
    front = {key: value for key, value in front.items() if value}
    config, name = model.config, model.config.name or exp.name
    kind, unit = "dense" if config.compression is None else "compressed", type_of(config.phones).units.removesuffix("s")
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False).rstrip(),
        "---",
        "",
        f"# {name}: {unit} recogniser, {kind} {config.rnn_type.upper()}",
        "",
        f"{config.num_layers} layers of {config.hidden_size} units, {config.num_outputs} outputs, "
        f"{config.sample_rate} Hz audio, one output every {config.frame_stride * config.frame_shift_ms:g} ms.",
        "",
        "## Use",
        "",
        "```python",
        f"import dirnet.espnet  # DirNet {dirnet.__version__} or later: it registers the model's classes",
        "from espnet2.bin.asr_inference import Speech2Text",
        "",
        f'recognise = Speech2Text.from_pretrained("{package}", ctc_weight=1.0, lm_weight=0.0, beam_size=10)',
        f"text, {unit}s, *_ = recognise(audio)[0]  # audio: (n,) float in -1..1",
        "```",
        "",
        "`dirnet zoo check` loads the package strictly: a missing or unexpected key is an error. On the hub the "
        "repository's name takes the place of the file.",
        "",
        *sizes(exp, model),
        *results(exp),
        *origin(exp),
    ]
    return "\n".join(lines)


def sizes(exp: Path, model: AcousticModel) -> list[str]:
    """Parameters and stored bytes, beside those of the dense model where the experiment knows them."""
    figures, compression = size_figures(model), compression_of(exp)
    lines = ["## Size", "", "| | parameters | bytes |", "|---|---:|---:|"]
    lines += [f"| this model | {figures['params']:,} | {figures['bytes']:,} |"]
    if compression and model.config.compression is not None:
        dense = compression["dense"]
        lines += [f"| the dense one | {dense['params']:,} | {dense['bytes']:,} |"]
    return [*lines, "", "Bytes count values and indices, as `model.pth` has them.", ""]


def results(exp: Path) -> list[str]:
    """Error rates with intervals and the real-time factor, its median as in the report, where decoded and measured."""
    lines = []
    for file in sorted(exp.glob("decode_*/[cptw]er.json")):
        score = read_json(file)
        if score is None:
            raise UserError(f"{file} is not JSON; delete it and decode again")
        low, high = score["percent_low"], score["percent_high"]
        name = f"{file.parent.name.removeprefix('decode_')} {file.stem.upper()}"
        lines.append(f"* {name}: {score['percent']:.2f} % ({low:.2f} to {high:.2f}, {score['interval']})")
    timing = read_json(exp / "rtf.json")
    if timing:
        lines.append(
            f"* median RTF {timing['rtf_p50']:.2g}: {timing['engine']}, {timing['dtype']}, "
            f"{timing['chunk']} outputs a call, {timing['device']}; {timing['timed']}"
        )
    return ["## Results", "", *(lines or ["Not decoded or timed."]), ""]


def origin(exp: Path) -> list[str]:
    """How the model was compressed and trained, and with which versions."""
    description, compression = storage.describe(exp), compression_of(exp)
    lines = ["## How it was made", ""]
    if compression:
        settings = ", ".join(f"{key} {value}" for key, value in compression["settings"].items())
        lines.append(
            f"* compressed by {compression['method']} to {compression['size']} ({settings}): "
            f"{compression['ratio']:.2f}x fewer parameters"
        )
    training = (description.get("extra") or {}).get("training")
    if training:
        epochs, averaged = training["epochs"], training["averaged"]
        told = f"the mean of epochs {', '.join(map(str, averaged))}" if len(averaged) > 1 else f"epoch {averaged[0]}"
        lines.append(
            f"* {'fine-tuned' if compression else 'trained'} for {epochs} epoch{'s' if epochs > 1 else ''} with ESPnet "
            f"{training['espnet']}, {told}, chosen by "
            f"{training['criterion']}"
        )
    versions = ", ".join(f"{name} {version}" for name, version in (description.get("versions") or {}).items())
    return [*lines, f"* DirNet, commit {description.get('commit') or 'unknown'}; {versions}", ""]


def compression_of(exp: Path) -> dict[str, Any] | None:
    """What the compressor told of the model before its fine-tuning, or of an unchanged one."""
    return read_json(exp / "start/compression.json") or read_json(exp / "compression.json")
