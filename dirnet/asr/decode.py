"""From log-posteriors to words through the graph, and to phones, or other tokens, without it.

Words: token passing in TLG (kaldi-decoder's FasterDecoder). Tokens: the best output of each frame, repeats collapsed,
blanks dropped. Takes posteriors from wherever they come: this module knows no model.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import sys
import time
import typing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from dirnet import config
from dirnet.asr.ark import Matrices
from dirnet.asr.lexicon import OUTPUTS, outputs_of
from dirnet.asr.tokens import type_of
from dirnet.errors import UserError, one_line_errors
from dirnet.files import atomic_write
from dirnet.options import Parser, place
from dirnet.progress import progress

if typing.TYPE_CHECKING:
    from kaldifst import StdVectorFst


AGAIN = "make the lexicon and the graph again (stage 2), or give another lang folder"


@dataclass(frozen=True)
class DecodeConfig:
    """`conf/decode.yaml`; costs are natural logarithms."""

    beam: float = 12.0
    max_active: int = 3000
    min_active: int = 20
    acoustic_scale: float = 1.0
    blank_penalty: float = 0.0

    def __post_init__(self):
        for name, value in (("beam", self.beam), ("acoustic_scale", self.acoustic_scale)):
            if not 0 < value < float("inf"):
                raise UserError(f"{name} is {value}, expected a positive number")
        if self.max_active < 2 or not 0 <= self.min_active < self.max_active:
            raise UserError(
                f"max_active is {self.max_active} and min_active {self.min_active}, expected 0 <= min < max, max >= 2"
            )


@dataclass(frozen=True)
class Decoded:
    """Words, total log-probability (graph + scaled acoustics), and whether a sentence end was reached."""

    words: list[str]
    score: float
    complete: bool


class Decoder:
    """Decodes with the graph of a lang folder: `Decoder("data/lang", config).decode(log_probs)`.

    For audio that is still coming: `start()`, `advance(log_probs)` as often as needed, `result()` at any time.
    """

    def __init__(self, lang: str | Path, settings: DecodeConfig | None = None):
        from kaldi_decoder import FasterDecoder, FasterDecoderOptions

        lang, self.settings = Path(lang), settings or DecodeConfig()
        self.lang, self.outputs = lang, outputs_of(lang)
        self._words = _read_ids(lang / "words.txt")
        if not (lang / "TLG.fst").is_file():
            raise UserError(f"{lang}/TLG.fst does not exist; compile it with dirnet.asr.graph (stage 2)")
        self._fst = _read_graph(lang / "TLG.fst")  # kept: the decoder only refers to it
        if "#0" not in self._words.values():  # comes behind all words
            raise UserError(f"{lang}/words.txt is cut short; {AGAIN}")
        options = FasterDecoderOptions(
            beam=self.settings.beam, max_active=self.settings.max_active, min_active=self.settings.min_active
        )
        self._decoder = FasterDecoder(self._fst, options)
        self.start()

    def check_outputs(self, names: Sequence[str], model: str | Path) -> None:
        """A `UserError` unless the outputs of `model`, with these names, are those that the graph reads."""
        for number, (given, read) in enumerate(itertools.zip_longest(names, self.outputs, fillvalue="missing")):
            if given != read:
                raise UserError(f"output {number} of {model} is {given}, but for the graph of {self.lang} it is "
                                f"{read}; give the lang folder that the model was trained with")  # fmt: skip

    def decode(self, log_probs: np.ndarray) -> tuple[list[str], float]:
        """The words of one utterance and their score; `log_probs` (T, outputs) float, natural logarithms."""
        self.start()
        self.advance(log_probs)
        result = self.result()
        return result.words, result.score

    def start(self) -> None:
        """Forget the last utterance."""
        self._decoder.init_decoding()
        self._frames = 0

    def advance(self, log_probs: np.ndarray) -> None:
        """Take the next frames, (t, outputs); a wrong width, NaN or positive infinity is a `UserError`."""
        from kaldi_decoder import DecodableCtc

        log_probs = check(log_probs, len(self.outputs))
        if not len(log_probs):
            return
        scaled = np.ascontiguousarray(log_probs, np.float32) * np.float32(self.settings.acoustic_scale)
        scaled[:, 0] -= self.settings.acoustic_scale * self.settings.blank_penalty
        # a decodable counts frames from the start of the utterance; `offset` says that the earlier ones are gone
        self._decoder.advance_decoding(DecodableCtc(scaled, offset=self._frames))
        self._frames += len(log_probs)

    def result(self) -> Decoded:
        """The best words so far; when none of the hypotheses ends a sentence, the best unfinished one."""
        from kaldifst import get_linear_symbol_sequence

        found, path = self._decoder.get_best_path()
        if not found:
            return Decoded([], float("-inf"), False)
        _, _, labels, weight = get_linear_symbol_sequence(path)
        if unknown := set(labels).difference(self._words):
            raise UserError(f"{self.lang}/words.txt lacks word {min(unknown)} of TLG.fst; {AGAIN}")
        score = -(weight.value1 + weight.value2)
        return Decoded([self._words[label] for label in labels], score, self._decoder.reached_final())


def check(log_probs: np.ndarray, outputs: int = len(OUTPUTS)) -> np.ndarray:
    """`log_probs` if it is (T, outputs) without NaN or +infinity, else a `UserError`."""
    log_probs = np.asarray(log_probs)
    if log_probs.ndim != 2 or log_probs.shape[1] != outputs:
        raise UserError(f"log-posteriors have shape {log_probs.shape}, expected (frames, {outputs}); give the lang "
                        "folder that the model was trained with")  # fmt: skip
    bad = np.isnan(log_probs) | np.isposinf(log_probs)
    if bad.any():
        raise UserError(f"log-posteriors hold {log_probs[bad][0]} at frame {np.argwhere(bad)[0][0]}; check the model")
    return log_probs


class GreedyDecoder:
    """Phones without a graph, by the calls of `Decoder`: the best output of each frame, repeats and blanks dropped.

    phones: name of every output, the blank first.
    """

    def __init__(self, phones: Sequence[str] = OUTPUTS):
        self._names = phones
        self.start()

    def start(self) -> None:
        """Forget the last utterance."""
        self._phones: list[str] = []
        self._last, self._score = 0, 0.0

    def advance(self, log_probs: np.ndarray) -> None:
        """Take the next frames, (t, outputs)."""
        if not len(log_probs):
            return
        log_probs = check(log_probs, len(self._names))
        best = log_probs.argmax(1)
        new = (best != np.append(self._last, best[:-1])) & (best != 0)
        self._phones += [self._names[token] for token in best[new]]
        self._last, self._score = best[-1], self._score + float(log_probs.max(1).sum())

    def result(self) -> Decoded:
        """The phones so far, which may always end here."""
        return Decoded(list(self._phones), self._score, True)


def greedy_phones(log_probs: np.ndarray, phones: Sequence[str] = OUTPUTS) -> list[str]:
    """The phones, or what else the outputs stand for, that `GreedyDecoder` finds in the whole `log_probs`."""
    decoder = GreedyDecoder(phones)
    decoder.advance(log_probs)
    return decoder.result().words


def _read_graph(path: Path) -> StdVectorFst:
    from kaldifst import StdVectorFst

    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)  # OpenFst says on its own what ails a damaged file
    try:
        graph = StdVectorFst.read(str(path))
    except (ValueError, RuntimeError, MemoryError):  # sizes in a damaged file are taken at their word
        graph = None
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
    if graph is None or graph.start < 0:
        raise UserError(f"{path} is damaged or empty; delete it and compile it again with dirnet.asr.graph (stage 2)")
    return graph


def _read_ids(path: Path) -> dict[int, str]:
    from dirnet.asr.graph import read_words

    return {number: word for word, number in read_words(path).items()}


@dataclass(frozen=True)
class _Row:
    """What became of one utterance; times in seconds."""

    name: str
    words: list[str]
    phones: list[str]
    score: float
    complete: bool
    frames: int
    seconds: float


_work: tuple[Matrices, Decoder]  # of this process; forked ones share the graph's memory


def _decode_one(name: str) -> _Row:
    posteriors, decoder = _work
    log_probs = posteriors[name]
    started = time.perf_counter()
    try:
        decoder.start()
        decoder.advance(log_probs)
        result = decoder.result()
        phones = greedy_phones(log_probs, decoder.outputs)
    except UserError as error:
        raise UserError(f"utterance {name}: {error}") from None
    seconds = time.perf_counter() - started
    return _Row(name, result.words, phones, result.score, result.complete, len(log_probs), seconds)


def decode_all(posteriors: Matrices, decoder: Decoder, jobs: int = 1) -> Iterator[_Row]:
    """Decode every utterance of `posteriors` in `jobs` processes, in its order.

    They are forks, so that the graph, gigabytes for a large corpus, is in memory once. More than one job is therefore
    for programs without threads of their own, as `main`: a fork may wait for ever for what a thread held.
    """
    global _work
    _work = (posteriors, decoder)
    if jobs == 1:
        yield from map(_decode_one, posteriors)
        return
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(jobs, fork, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        try:
            yield from pool.map(_decode_one, posteriors, chunksize=8)
        except BrokenProcessPool:  # where multiprocessing's own pool would wait for ever
            raise UserError(
                f"one of {jobs} processes was killed, perhaps for lack of memory; give a smaller --nj"
            ) from None


def read_frame_shift(path: Path, default: float = 0.03) -> float:
    """The seconds in the Kaldi file `path`, `default` where there is none."""
    try:
        return float(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return default
    except ValueError:
        raise UserError(f"{path} is not a number of seconds such as 0.03; make the posteriors again") from None


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Decode OUT/{text,phones,decode.tsv,decode.json} from log-posteriors (`utt-id` -> (T, outputs) float32).

    With a lang folder of other tokens `phones` is `chars`, `words` or `pieces`.
    """
    parser = Parser(prog="python -m dirnet.asr.decode", description=main.__doc__)
    parser.add_argument("--lang", required=True, help="folder with TLG.fst and words.txt")
    parser.add_argument("--posteriors", required=True, help="scp file of the log-posteriors")
    parser.add_argument("--config", default="", help="conf/decode.yaml")
    parser.add_argument("--out", required=True, type=place, help="folder to write to")
    parser.add_argument("--nj", type=int, default=1, help="processes")
    parser.add_argument("--frame_seconds", type=float, help="between posteriors; default: as frame_shift says, or 0.03")
    parser.add_argument("--acoustic_scale", type=float, help="instead of the config's")
    parser.add_argument("--blank_penalty", type=float, help="instead of the config's")
    arguments = parser.parse_args(argv)
    if arguments.nj < 1:
        raise UserError(f"--nj is {arguments.nj}, expected 1 or more processes")
    frame_seconds = arguments.frame_seconds
    if frame_seconds is None:
        frame_seconds = read_frame_shift(Path(arguments.posteriors).parent / "frame_shift")
    if frame_seconds <= 0:
        raise UserError(f"--frame_seconds is {frame_seconds}, expected a positive number such as 0.03")
    mapping = config.read_yaml(arguments.config) if arguments.config else {}
    for name in ("acoustic_scale", "blank_penalty"):
        if getattr(arguments, name) is not None:
            mapping[name] = getattr(arguments, name)
    settings = config.from_mapping(DecodeConfig, mapping, arguments.config or "command line")
    posteriors = Matrices(arguments.posteriors)
    if not len(posteriors):
        raise UserError(f"{arguments.posteriors} is empty, expected lines `utt-id ark:offset`")
    decoder = Decoder(arguments.lang, settings)

    jobs = min(arguments.nj, len(posteriors))
    out, unfinished, seconds, frames = arguments.out, [], 0.0, 0
    # written as they come, as a corpus does not fit in memory; `text`, the last to appear, says that all is done
    with (
        atomic_write(out / "text") as texts,
        atomic_write(out / type_of(decoder.outputs).units) as phones,
        atomic_write(out / "decode.tsv") as table,
    ):
        table.write("utterance\tframes\tseconds\trtf\tscore\tcomplete\n")
        for row in progress(decode_all(posteriors, decoder, jobs), len(posteriors), "decode"):
            texts.write(" ".join((row.name, *row.words)) + "\n")
            phones.write(" ".join((row.name, *row.phones)) + "\n")
            rtf = row.seconds / max(row.frames * frame_seconds, 1e-9)
            measured = f"{row.seconds:.4f}\t{rtf:.4f}\t{row.score:.3f}\t{int(row.complete)}"
            table.write(f"{row.name}\t{row.frames}\t{measured}\n")
            seconds, frames = seconds + row.seconds, frames + row.frames
            unfinished += [] if row.complete else [row.name]
        audio = frames * frame_seconds
        rtf = seconds / max(audio, 1e-9)
        summary = {
            "utterances": len(posteriors),
            "unfinished": len(unfinished),
            "seconds": seconds,
            "audio_seconds": audio,
            "rtf": rtf,
            "config": asdict(settings),
        }
        with atomic_write(out / "decode.json") as stream:
            json.dump(summary, stream, indent=1)
    if unfinished:
        print(
            f"warning: {len(unfinished)} of {len(posteriors)} utterances (the first is {unfinished[0]}) ended inside a"
            " word or sentence; their best unfinished words are kept. A larger beam or max_active may help"
        )
    print(f"{out}/text: {len(posteriors)} utterances, RTF = {seconds:.2f} / {audio:.2f} = {rtf:.4f}")
    return 0


if __name__ == "__main__":
    main()
