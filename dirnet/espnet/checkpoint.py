"""Between ESPnet's checkpoints and the neutral model, every key and shape checked.

ESPnet itself loads with `strict=False`, writes checkpoints in place and adds up integer buffers when it averages.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from dirnet.errors import UserError
from dirnet.files import atomic_write, name_full_disk
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig
from dirnet.nn.coding import Coding

EXTRA_TOKENS = ("<unk>", "<sos/eos>")  # ESPnet's token lists must have them, phone transcripts lack them
RNN, OUTPUT, NORMALIZE = "encoder.rnn.", "ctc.ctc_lo.", "normalize."
SHAPE = (
    "rnn_type", "hidden_size", "num_layers", "frame_stride", "bidirectional", "compression",
    *(field.name for field in dataclasses.fields(Coding)),
)  # fmt: skip
FULL_DISK_BYTES = 16 << 20  # less than this free after a failed write is a full disk
CHECKPOINT, PREVIOUS = "checkpoint.pth", "checkpoint.previous.pth"


def neutral_model(config: Mapping[str, Any], state: Mapping[str, Tensor], name: str = "") -> AcousticModel:
    """The model of an ESPnet configuration (what `config.yaml` holds) and state dict."""
    encoder = config["encoder_conf"]
    tokens = [token for token in config["token_list"] if token not in EXTRA_TOKENS]
    mean, std = state[f"{NORMALIZE}mean"].double(), state[f"{NORMALIZE}std"].double()
    mfcc = dict(config["frontend_conf"].get("mfcc") or {})
    layout = encoder.get("compression")
    neutral = AcousticModelConfig(
        phones=tuple(tokens),
        num_outputs=len(tokens),
        feature_size=len(mean),
        context=config["preencoder_conf"]["context"],
        sample_rate=mfcc.get("sample_frequency", 16000),
        frame_shift_ms=mfcc.get("frame_shift", 10.0),
        mfcc=mfcc,
        cmvn_mean=tuple(mean.tolist()),
        cmvn_istd=tuple((1 / std).tolist()),
        name=name,
        **{key: encoder[key] for key in SHAPE if key in encoder and key != "compression"},
        compression=None if layout is None else tuple(layout),
    )
    rnn = {key.removeprefix(RNN): value for key, value in state.items() if key.startswith(RNN)}
    return AcousticModel.from_parts(neutral, rnn, state[f"{OUTPUT}weight"], state[f"{OUTPUT}bias"]).eval()


def espnet_state(model: AcousticModel, num_outputs: int, stored: bool = False) -> dict[str, Tensor]:
    """The ESPnet state dict of a neutral model; outputs beyond its own never win.

    stored: coded matrices as they are stored, in the bytes that were told; ESPnet's models load them all the same.
    """
    rnn, weight, bias = model.parts(num_outputs)
    rnn = storage.stored_state(model.rnn) if stored else rnn
    return {
        f"{NORMALIZE}mean": model.cmvn_mean,
        f"{NORMALIZE}std": 1 / model.cmvn_istd,
        **{f"{RNN}{key}": value for key, value in rnn.items()},
        f"{OUTPUT}weight": weight,
        f"{OUTPUT}bias": bias,
    }


def encoder_conf(model: AcousticModel) -> dict[str, Any]:
    """The `encoder_conf` that builds an encoder of the model's shape."""
    values = {key: getattr(model.config, key) for key in SHAPE}
    layout = values["compression"]
    return {**values, "compression": None if layout is None else [list(group) for group in layout]}


def read_initial(path: Path, tokens: Sequence[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """`encoder_conf` values and state dict of the model to start from.

    path: a folder with a neutral model, an ESPnet checkpoint (`.pth`), or an ESPnet folder with `config.yaml`.
    """
    if (path / storage.DESCRIPTION).exists():
        model = storage.load(path)
        phones = [token for token in tokens if token not in EXTRA_TOKENS]
        if list(model.config.phones) != phones:
            pairs = zip([*model.config.phones, None], [*phones, None], strict=False)
            number, (theirs, ours) = next((n, pair) for n, pair in enumerate(pairs) if pair[0] != pair[1])
            raise UserError(f"{path}: output {number} is {theirs!r}, the token list has {ours!r}; use its token list")
        return encoder_conf(model), espnet_state(model, len(tokens))
    best = sorted(path.glob("valid.*.best.pth"))
    if len(best) > 1:
        raise UserError(f"{path} has {', '.join(file.name for file in best)}; name the one to start from")
    checkpoint = (best[0] if best else path / "valid.loss_ctc.best.pth") if path.is_dir() else path
    state = load_state(checkpoint)
    config = checkpoint.parent / "config.yaml"
    conf = yaml.safe_load(config.read_text(encoding="utf-8")).get("encoder_conf", {}) if config.exists() else {}
    return {key: conf[key] for key in SHAPE if key in conf}, state


def load_state(path: Path) -> dict[str, Any]:
    """What `torch.save` wrote to `path`; no code in it is run. Missing or damaged is a `UserError`."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"checkpoint {path} does not exist; give a trained model or train it first") from None
    except Exception as error:  # truncated archives and foreign content surface as half a dozen types
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"checkpoint {path} cannot be read ({first}); copy or train it again") from None


def whole_state(model: nn.Module, state: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """`state` of the file `where` with its coded matrices as `model` has them, stored compactly as they may be."""
    try:
        return storage.restored_state(model, state)
    except UserError as error:
        raise UserError(f"{where}: {error}; copy or pack it again") from None


def check_fits(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: Path,
    advice: str = "give encoder_conf its values",
) -> None:  # fmt: skip
    """A `UserError` that names the first keys or shapes in which `state` differs from the model's `expected`."""
    faults = [f"{key} is missing" for key in expected if key not in state]
    faults += [f"{key} is unknown" for key in state if key not in expected]
    for key in expected:
        if key in state and state[key].shape != expected[key].shape:
            faults.append(f"{key} is {list(state[key].shape)} there, {list(expected[key].shape)} here")
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise UserError(f"{where} is of another architecture: {'; '.join(faults[:3])}{more}; {advice}")


def average(paths: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of state dicts; integer buffers, equal in all, are kept."""
    states = [load_state(path) for path in paths]
    mean = {}
    for key, value in states[0].items():
        if value.is_floating_point():
            mean[key] = torch.stack([state[key].double() for state in states]).mean(0).to(value.dtype)
        else:
            if any(not torch.equal(state[key], value) for state in states):
                raise RuntimeError(f"{key} changed between epochs; the support of compressed layers must not")
            mean[key] = value
    return mean


@contextlib.contextmanager
def full_disk_told(folder: Path) -> Iterator[None]:
    """`torch.save` reports a full disk as a RuntimeError; say what it is, and where."""
    try:
        yield
    except OSError as error:
        name_full_disk(error, folder)
        raise
    except RuntimeError:
        if shutil.disk_usage(folder).free < FULL_DISK_BYTES:
            raise UserError(f"no space left while writing {folder}; free some and run it again to continue") from None
        raise


def recover(folder: Path) -> None:
    """Undo what a kill in the middle of a write left in an experiment folder, so that training can be resumed."""
    newest, before = folder / CHECKPOINT, folder / PREVIOUS
    if not zipfile.is_zipfile(newest):
        newest.unlink(missing_ok=True)
        if zipfile.is_zipfile(before):
            os.replace(before, newest)
    for path in folder.glob("*epoch.pth"):
        if not zipfile.is_zipfile(path):
            path.unlink()
    if newest.exists():  # ESPnet writes it before the model of its epoch, and never asks for that again
        state = torch.load(newest, map_location="cpu", weights_only=False)  # as ESPnet does, for its times
        model = folder / f"{state['reporter']['epoch']}epoch.pth"
        if not model.exists():
            with atomic_write(model, "wb") as stream:
                torch.save(state["model"], stream)
