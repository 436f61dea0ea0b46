"""Audio files to words: MFCC, the neutral model, the decoding graph; one line a file, and the real-time factor."""

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


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Print `FILE WORDS` for every file, then `RTF = elapsed / audio`; an unreadable file ends it with status 2."""
    parser = argparse.ArgumentParser(prog="dirnet decode", description=__doc__)
    parser.add_argument("files", nargs="+", metavar="FILE", help="wav, flac or Ogg Opus")
    parser.add_argument("--model", required=True, help="folder with model.safetensors and model.json")
    parser.add_argument("--lang", default="data/lang", type=Path, help="folder with TLG.fst and words.txt")
    parser.add_argument("--config", help="search options, conf/decode.yaml")
    parser.add_argument("--phones", type=config.boolean, default=False, help="true: the best phones instead of words")
    parser.add_argument("--resample", type=config.boolean, default=False, help="true: convert other sampling rates")
    arguments = parser.parse_args(argv)
    model = storage.load(arguments.model)
    mfcc = Mfcc(config.from_mapping(MfccConfig, model.config.mfcc, f"{arguments.model}: mfcc"))
    settings = config.load(DecodeConfig, arguments.config) if arguments.config else DecodeConfig()
    decoder = None if arguments.phones else Decoder(arguments.lang, settings)
    reader = AudioReader(mfcc.config.sample_frequency, resample=arguments.resample)
    elapsed = audio = 0.0
    for name in arguments.files:
        samples = reader.read(name)
        started = time.perf_counter()
        with torch.inference_mode():
            features = mfcc(torch.as_tensor(samples)[None])
            if features.shape[1] == 0:
                raise UserError(f"{name} has {len(samples)} samples, expected at least one window of "
                                f"{mfcc.config.frame_length:g} ms")  # fmt: skip
            log_probs = model(features, torch.tensor([features.shape[1]]))[0][0].numpy()
        found = greedy_phones(log_probs) if decoder is None else decoder.decode(log_probs)[0]
        elapsed += time.perf_counter() - started
        audio += len(samples) / mfcc.config.sample_frequency
        print(name, *found)
    print(f"RTF = {elapsed:.2f} / {audio:.2f} = {elapsed / audio:.4f}")
    return 0


if __name__ == "__main__":
    main()
