"""Log-posteriors of a set of utterances from a neutral model, as a Kaldi ark: what decoding reads."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch.nn.utils.rnn import pad_sequence

from dirnet.asr.ark import Matrices, write_ark
from dirnet.errors import UserError, one_line_errors
from dirnet.files import atomic_write
from dirnet.nn import storage
from dirnet.options import Parser, place
from dirnet.progress import progress


def batches(feats: Matrices, frames: int) -> Iterator[tuple[list[str], torch.Tensor, torch.Tensor]]:
    """Yield (names, features (B, T, n) float32 padded with zeros, lengths (B,) int64) of at most `frames` = B * T.

    Utterances keep their order, as a corpus does not fit in memory to be sorted; a longer one travels alone.
    """
    names, matrices = [], []
    for name, matrix in progress(feats.items(), len(feats), "posteriors"):
        longest = max([len(matrix), *map(len, matrices)])
        if names and longest * (len(names) + 1) > frames:
            yield names, pad_sequence(matrices, batch_first=True), torch.tensor([len(m) for m in matrices])
            names, matrices = [], []
        names.append(name)
        matrices.append(torch.from_numpy(matrix.copy()))
    if names:
        yield names, pad_sequence(matrices, batch_first=True), torch.tensor([len(m) for m in matrices])


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Write `OUT/posteriors.{ark,scp}`, float32 (frames after striding, outputs) log-probabilities an utterance.

    `OUT/frame_shift` holds the seconds between two of those frames, as Kaldi's file of that name.
    """
    parser = Parser(prog="python -m dirnet.posteriors", description=__doc__)
    parser.add_argument("--model", required=True, help="folder with model.safetensors and model.json")
    parser.add_argument("--feats", required=True, help="feats.scp of MFCC features, not normalised")
    parser.add_argument("--out", required=True, type=place, help="folder of posteriors.ark and posteriors.scp")
    parser.add_argument("--batch_frames", type=int, default=20000, help="feature frames in one batch, padding included")
    arguments = parser.parse_args(argv)
    if arguments.batch_frames < 1:
        raise UserError(f"--batch_frames is {arguments.batch_frames}, expected a positive number of frames")
    model = storage.load(arguments.model).eval()
    feats = Matrices(arguments.feats)
    out = arguments.out
    started, frames = time.perf_counter(), 0
    with write_ark(out / "posteriors.ark", out / "posteriors.scp", compress=False) as writer, torch.inference_mode():
        for names, features, lengths in batches(feats, arguments.batch_frames):
            log_probs, out_lengths = model(features, lengths)
            for name, posterior, length in zip(names, log_probs, out_lengths.tolist(), strict=True):
                writer.write(name, posterior[:length].numpy())
            frames += int(lengths.sum())
        with atomic_write(out / "frame_shift") as stream:  # before the archive, which nobody then reads without it
            stream.write(f"{model.config.frame_shift_ms * model.config.frame_stride / 1000:g}\n")
    seconds = time.perf_counter() - started
    audio = frames * model.config.frame_shift_ms / 1000
    print(f"posteriors of {len(feats)} utterances: {audio:.0f} s of audio in {seconds:.1f} s -> {out}/posteriors.scp")
    return 0


if __name__ == "__main__":
    main()
