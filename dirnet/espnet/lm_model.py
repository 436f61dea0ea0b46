"""From ESPnet's language models (`seq_rnn`, plain or in `dirnet_wrap`) to the neutral one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dirnet.errors import UserError
from dirnet.nn.language import LanguageModel, LanguageModelConfig

DEFAULTS = {"unit": 650, "nhid": None, "nlayers": 2, "rnn_type": "lstm"}  # of ESPnet's SequentialRNNLM
NAMES = {"encoder": "embedding", "rnn": "rnn", "decoder": "output"}  # ESPnet's, ours


def shape(config: Mapping[str, Any], where: object = "config.yaml") -> tuple[dict[str, Any], dict[str, Any]]:
    """`DEFAULTS` as `config` has them, and the settings of its compressed layers; another kind is a `UserError`."""
    kind, conf, layers = config.get("lm"), dict(config.get("lm_conf") or {}), {}
    if kind == "dirnet_wrap":
        kind, layers, conf = conf["base"], conf.get("layers") or {}, {**conf, **(conf.get("base_conf") or {})}
    conf = DEFAULTS | {key: value for key, value in conf.items() if key in DEFAULTS}
    if kind != "seq_rnn" or conf["rnn_type"] not in ("lstm", "gru", "rnn_tanh"):
        raise UserError(
            f"{where}: lm is {kind} with rnn_type {conf['rnn_type']}, expected seq_rnn with lstm, gru or rnn_tanh"
        )
    return conf, dict(layers)


def neutral_model(config: Mapping[str, Any], state: Mapping[str, Tensor], name: str = "") -> LanguageModel:
    """The model of an ESPnet configuration (what `config.yaml` holds) and state dict; another kind is a `UserError`."""
    conf, layers = shape(config)
    settings = dict(layers.get("rnn") or {})
    if "layout" in settings:
        settings["compression"] = tuple(map(tuple, settings.pop("layout")))
    neutral = LanguageModelConfig(
        rnn_type=conf["rnn_type"].removesuffix("_tanh"), embedding_size=conf["unit"],
        hidden_size=conf["nhid"] or conf["unit"], num_layers=conf["nlayers"], words=tuple(config["token_list"]),
        name=name, **settings,
    )  # fmt: skip
    model = LanguageModel(neutral)
    renamed = {}
    for key, value in state.items():
        _, part, rest = key.split(".", 2)
        renamed[f"{NAMES[part]}.{rest}"] = value
    with torch.no_grad():
        model.load_state_dict(renamed)
    return model.eval()
