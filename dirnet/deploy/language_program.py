"""Language models as ExecuTorch programs, and how many words a second they read, one word a call.

    python -m dirnet.deploy.language_program --models exp/lm exp/dirnet_6.7x --words data/test/text

A program is that of an acoustic model whose features are one value, the word's number: what it looks up in its
embedding goes through the recurrent layers and the output layer, states go round. So `dirnet verify` and the C++ runner
take it as it is. All programs are measured in turns with every dense engine at hand, which begin behind the embedding
(they are handed its row), so that a speed-up is over the fastest dense one.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dirnet.deploy import certificate, comparison, library, timing
from dirnet.deploy.engines import dense_engines, program_engine
from dirnet.deploy.export import constants, contents, origin
from dirnet.deploy.lowering import lower
from dirnet.deploy.parity import checked
from dirnet.deploy.program import Program
from dirnet.deploy.rtf import check_threads
from dirnet.deploy.streaming import KernelModel
from dirnet.deploy.timing import Timing
from dirnet.errors import UserError, one_line_errors
from dirnet.files import atomic_write
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig
from dirnet.nn.language import LanguageModel
from dirnet.nn.model_config import RecurrentConfig
from dirnet.options import Parser

PROGRAM, SPEED = "program.pte", "speed.json"
READ = 400  # words of the text that the engines go through again and again


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Write DIR/program.pte of every model, then DIR/speed.json; programs that are current are left alone."""
    parser = Parser(prog="python -m dirnet.deploy.language_program", description=__doc__)
    parser.add_argument("--models", required=True, type=Path, nargs="+", help="folders; the first is the dense model")
    parser.add_argument("--words", required=True, type=Path, help="text to read: names, then words")
    parser.add_argument("--measured_words", type=int, default=2000, help="how many words every engine reads")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    if options.measured_words < 1:
        raise UserError(f"--measured_words is {options.measured_words}, expected at least 1")
    check_threads(options.threads)
    models = {folder: storage.load_language(folder) for folder in options.models}
    baseline = options.models[0]
    if models[baseline].config.compression is not None:
        raise UserError(f"{baseline} is compressed; the first of --models is the dense one to compare with")
    for folder, model in models.items():
        if model.config.words != models[baseline].config.words:
            raise UserError(f"{folder} knows other words than {baseline}; compare models of one vocabulary")
    ids = word_ids(options.words, models[baseline].config.words)
    with timing.pinned(options.threads) as cores:
        for folder, model in models.items():
            print(export(model, folder), flush=True)
        found = measure(models, baseline, ids, options.measured_words, options.threads)
        machine = timing.machine() | {"cores": cores, "threads": options.threads}
    for folder, result in found.items():
        with atomic_write(folder / SPEED) as stream:
            json.dump(result | machine, stream, indent=1)
    print(comparison.engines_table(found).replace("us per frame", "us per word "))
    return 0


class WordModel(nn.Module):
    """A `LanguageModel` in the form of an `AcousticModel`: features (B, T, 1) are word numbers as float32."""

    def __init__(self, model: LanguageModel):
        super().__init__()
        self.embedding, self.rnn, self.output = model.embedding, model.rnn, model.output
        self.config = _acoustic_config(model, feature_size=1)
        self.register_buffer("cmvn_mean", torch.zeros(1), persistent=False)
        self.register_buffer("cmvn_istd", torch.ones(1), persistent=False)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log probabilities (B, T, words) of what follows each word, and `lengths`."""
        hidden, _ = self.rnn(self.embedding(features[..., 0].long()))
        return self.output(hidden).log_softmax(dim=-1), lengths


class WordKernels(KernelModel):
    """The program of a `WordModel`."""

    def __init__(self, model: WordModel):
        super().__init__(model)
        self.embedding = nn.Buffer(model.embedding.weight.detach().clone())

    def windows(self, features):
        return nn.functional.embedding(features[:, 0].long(), self.embedding)


def beyond_embedding(model: LanguageModel) -> AcousticModel:
    """What reads the rows of the embedding: RNN and output layer as an acoustic model without context."""
    config = _acoustic_config(model, feature_size=model.config.embedding_size)
    return AcousticModel.from_parts(config, model.rnn.state_dict(), model.output.weight, model.output.bias).eval()


def export(model: LanguageModel, folder: Path) -> str:
    """Write the program of `model` into its `folder`, parity-checked, with its report beside it; says what it did."""
    out, source = folder / PROGRAM, origin(folder, storage.LANGUAGE_FORMAT)
    if certificate.found(out).items() >= source.items():
        return f"{out} is already the program of {folder}; nothing to do"
    library.load()  # a missing compiler is told before the work
    eager = WordModel(model)
    streaming = WordKernels(eager)
    lowered = lower(streaming, constants(eager, streaming, 1, source["model_sha256"]))
    parity = check(eager, Program("the exported program", lowered.content))
    report = {"model": str(folder), **source, "backend": streaming.backend, "chunk": 1}
    report |= contents(eager, lowered, parity, _random_words(model, 8, seed=1))
    certificate.write(out, lowered.content, report)
    return f"{out}: {len(lowered.content):,} bytes, parity with torch {max(parity.values()):.1e}"


@torch.no_grad()
def check(eager: WordModel, program: Program) -> dict[str, float]:
    """How far the program is from eager torch, one word a call and several; a `UserError` above the tolerance."""
    words = _random_words(eager, 16, seed=0)
    expected = eager(words[None], torch.tensor([len(words)]))[0][0]
    return {
        name: checked(expected, program.stream(words, chunks), program.dtype, eager.config.name)
        for name, chunks in (("words", 1), ("streaming", [7, 9]))
    }


def measure(
    models: dict[Path, LanguageModel], baseline: Path, ids: Tensor, words: int, threads: int
) -> dict[Path, dict[str, Any]]:
    """What `speed.json` tells of every program; of the `baseline` its fastest fp32 engine, and all that were measured.

    ids: (n,) numbers of the words to read.
    """
    features, dense = ids[:READ, None].float(), models[baseline]
    engines = {folder: [program_engine(Program(folder / PROGRAM), 1, features)] for folder in models}
    with torch.no_grad():
        rows = dense.embedding(ids[:READ])
    engines[baseline] += dense_engines(beyond_embedding(dense), rows, [1], [1], threads,
                                       {("executorch dirnet", "fp32", 1)})  # fmt: skip
    every = [engine for own in engines.values() for engine in own]
    seconds = words * every[0].frame_ms / 1000
    timed = timing.in_turns(every, seconds, threads)
    peers, found = [timed[id(engine)] for engine in engines[baseline]], {}
    for folder, own in engines.items():
        lines = [timed[id(engine)] for engine in own]
        best = min((line for line in lines if line.dtype == "fp32" or folder != baseline), key=Timing.us)
        found[folder] = {
            "words_per_second": 1e6 / best.us(),
            "us_per_word": best.us(),
            "engines": [comparison.row(line, peers, {}) for line in lines],
            "baseline": str(baseline),
            **comparison.row(best, peers, {}),
        }
    return found


def word_ids(path: Path, words: Sequence[str]) -> Tensor:
    """The numbers of the words of a text whose lines begin with a name; `<unk>` for what `words` lacks."""
    number = {word: at for at, word in enumerate(words)}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"--words {path} does not exist; give a text such as data/test/text") from None
    except UnicodeDecodeError:
        raise UserError(f"--words {path} is not UTF-8 text; convert it with iconv") from None
    ids = [number.get(word, number.get("<unk>", 0)) for line in lines for word in line.split()[1:]]
    if not ids:
        raise UserError(f"--words {path} holds no words; its lines are a name and words")
    return torch.tensor(ids)


def _acoustic_config(model: LanguageModel, feature_size: int) -> AcousticModelConfig:
    config = model.config
    layers = {field.name: getattr(config, field.name) for field in dataclasses.fields(RecurrentConfig)}
    return AcousticModelConfig(
        **layers, phones=config.words, num_outputs=len(config.words), feature_size=feature_size, context=0
    )


def _random_words(model: LanguageModel | WordModel, count: int, seed: int) -> Tensor:
    """Features (count, 1)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.output.out_features, (count, 1), generator=generator).float()


if __name__ == "__main__":
    main()
