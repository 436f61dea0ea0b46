"""Audio files to words: MFCC, a model, the decoding graph; one line a file, and the real-time factor.

A stored model (--model) takes a file as a whole. An exported program (--pte) takes it in pieces, as a microphone
delivers them, and tells partial words on standard error; it also listens to standard input:

    arecord -t raw -f S16_LE -c 1 -r 16000 | dirnet decode --pte encoder.pte -
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from dirnet import config
from dirnet.asr.audio import AudioReader
from dirnet.asr.decode import DecodeConfig, Decoder, greedy_phones
from dirnet.asr.features import Mfcc, MfccConfig
from dirnet.errors import UserError, one_line_errors
from dirnet.nn import storage
from dirnet.options import Parser


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Print `FILE WORDS` for every file, then `RTF = elapsed / audio`; an unreadable file ends it with status 2."""
    parser = Parser(prog="dirnet decode", description=__doc__)
    parser.add_argument("files", nargs="+", metavar="FILE", help="wav, flac or Ogg Opus; with --pte also -")
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model", help="folder with model.safetensors and model.json")
    model.add_argument("--pte", help="exported program")
    parser.add_argument("--lang", type=Path, help="folder with TLG.fst and words.txt (default data/lang)")
    parser.add_argument("--config", help="search options, conf/decode.yaml")
    parser.add_argument("--phones", type=config.boolean, default=False, help="true: the best phones instead of words")
    parser.add_argument("--resample", type=config.boolean, default=False, help="true: convert other sampling rates")
    parser.add_argument("--chunk_ms", type=int, help="with --pte: sound in a piece, in ms (default 100)")
    parser.add_argument("--quiet", type=config.boolean, help="with --pte, true: final words only")
    arguments = parser.parse_args(argv)
    for name in ("lang", "config"):
        if arguments.phones and getattr(arguments, name):
            raise UserError(f"--{name} goes with words; --phones true searches no graph")
    arguments.lang = arguments.lang or Path("data/lang")
    settings = config.load(DecodeConfig, arguments.config) if arguments.config else DecodeConfig()
    elapsed, audio = (_live if arguments.pte else _whole)(arguments, settings)
    print(f"RTF = elapsed / audio = {elapsed:.2f} / {audio:.2f} = {elapsed / audio:.4f}")
    return 0


def _live(arguments: argparse.Namespace, settings: DecodeConfig) -> tuple[float, float]:
    """Decode pieces of sound with an exported program; seconds it took, and of sound."""
    from dirnet.deploy.program import Program
    from dirnet.listen import STDIN, listen, search_for

    piece_ms = 100 if arguments.chunk_ms is None else arguments.chunk_ms
    if not 1 <= piece_ms <= 60000:
        raise UserError(f"--chunk_ms is {piece_ms}, expected 1..60000 ms of sound in a piece")
    if arguments.files.count(STDIN) > 1:
        raise UserError("the file - stands for standard input and can be read only once; give it once")
    if STDIN in arguments.files and arguments.resample:
        raise UserError("--resample true does not go with -, as raw samples tell no rate; record at the model's")
    _check_lang(arguments)
    program = Program(arguments.pte)
    search = search_for(program, None if arguments.phones else arguments.lang, settings)
    times = listen(arguments.files, program, search, arguments.resample, piece_ms, bool(arguments.quiet))
    return times.elapsed, times.audio


def _whole(arguments: argparse.Namespace, settings: DecodeConfig) -> tuple[float, float]:
    """Decode whole files with a stored model; seconds it took, and of sound."""
    for name in ("chunk_ms", "quiet"):
        if getattr(arguments, name) is not None:
            raise UserError(f"--{name} goes with --pte; a stored model takes each file as a whole")
    if "-" in arguments.files:
        raise UserError("the file -, standard input, goes with --pte; `dirnet export` writes such a program")
    _check_lang(arguments)
    model = storage.load(arguments.model)
    mfcc = Mfcc(config.from_mapping(MfccConfig, model.config.mfcc, f"{arguments.model}: mfcc"))
    decoder = None
    if not arguments.phones:
        decoder = Decoder(arguments.lang, settings)
        decoder.check_outputs(model.config.phones, arguments.model)
    reader = AudioReader(mfcc.config.sample_frequency, resample=arguments.resample)
    elapsed = audio = 0.0
    for name in arguments.files:
        samples = reader.read_finite(name)
        started = time.perf_counter()
        with torch.inference_mode():
            features = mfcc(torch.as_tensor(samples)[None])
            if features.shape[1] == 0:
                raise UserError(f"{name} has {len(samples)} samples, expected at least one window of "
                                f"{mfcc.config.frame_length:g} ms")  # fmt: skip
            log_probs = model(features, torch.tensor([features.shape[1]]))[0][0].numpy()
        found = greedy_phones(log_probs, model.config.phones) if decoder is None else decoder.decode(log_probs)[0]
        elapsed += time.perf_counter() - started
        audio += len(samples) / mfcc.config.sample_frequency
        print(name, *found)
    return elapsed, audio


def _check_lang(arguments: argparse.Namespace) -> None:
    """A `UserError` where words are wanted and the folder of the graph is not there, before anything is loaded."""
    if not arguments.phones and not arguments.lang.is_dir():
        raise UserError(f"--lang {arguments.lang} is no folder; stage 2 of a recipe makes it, --phones true needs none")


if __name__ == "__main__":
    main()
