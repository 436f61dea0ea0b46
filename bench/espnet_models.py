"""Stock ESPnet models, dense and with recurrent layers compressed: attention, transducer, CTC over BPE, an LM.

    python -m bench.espnet_models --mini WORK --read SPEECHOCEAN762 --out OUT

WORK: a workdir of `egs/librispeech_dirnet/run.sh --corpus mini` after stage 2. Models are described by `conf/espnet`,
trained, decoded and scored by ESPnet's own programs; a rerun does what is missing. What is found is kept in
OUT/MODEL/result.json; OUT/models.md is the table.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile

from dirnet.asr import score
from dirnet.asr.transcripts import read_transcripts, write_transcripts
from dirnet.errors import UserError, one_line_errors
from dirnet.espnet import compress
from dirnet.files import atomic_write, read_json
from dirnet.options import Parser
from dirnet.provenance import commit, cpu_name

HERE = Path(__file__).parent
CONF = HERE / "conf/espnet"
SPECIAL = ("<blank>", "<unk>")  # first in ESPnet's token lists; <sos/eos> is last
PIECES = 60
DEFAULT_SIZE = "4x"  # also of results that do not say it


@dataclass(frozen=True)
class Model:
    """corpus: `mini` or `read`. tokens: `phn` or `bpe`. utterances: for training and test. decode: options."""

    corpus: str
    tokens: str
    utterances: tuple[int, int]
    task: str = "asr"
    decode: tuple[str, ...] = ()
    tuning: tuple[str, ...] = ()


MODELS = {
    "seq_rnn_lm": Model("mini", "bpe", (3200, 300), "lm", tuning=("--max_epoch", "3")),
    "vgg_rnn_attention": Model("mini", "phn", (1200, 60), decode=("--ctc_weight", "0.5", "--beam_size", "3"),
                               tuning=("--max_epoch", "1")),
    "rnn_transducer": Model("mini", "phn", (1600, 60), decode=("--ctc_weight", "0", "--beam_size", "2"),
                            tuning=("--max_epoch", "1")),
    "blstmp_ctc_bpe": Model("read", "bpe", (1000, 100), decode=("--ctc_weight", "1.0", "--beam_size", "3"),
                            tuning=("--max_epoch", "2")),
}  # fmt: skip


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Train, compress, fine-tune, decode; write the table."""
    parser = Parser(prog="python -m bench.espnet_models", description=__doc__)
    parser.add_argument("--mini", required=True, type=Path, help="folder with data/{train,dev,test} of the mini corpus")
    parser.add_argument("--read", required=True, type=Path, help="speechocean762: train, test and audio")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--size", default=DEFAULT_SIZE, help="of the recurrent layers (default: %(default)s)")
    parser.add_argument("--stop_after", choices=["dense", "all"], default="all", help="dense: train, nothing else")
    arguments = parser.parse_args(argv)
    sys.path.append(str(HERE / "transducer_loss"))
    for name in arguments.models:
        model = MODELS[name]
        exp = Experiment(arguments.out.absolute(), name, model, arguments.size)
        exp.prepare({"mini": arguments.mini, "read": arguments.read}[model.corpus].absolute())
        exp.step("dense", exp.train_dense)
        if arguments.stop_after == "all":
            exp.step("dense_score", lambda exp=exp: exp.evaluate("dense"))
            exp.step("compress", exp.compress)
            exp.step("small_score", lambda exp=exp: exp.evaluate("small"))
            exp.step("tune", exp.tune)
            exp.step("tuned_score", lambda exp=exp: exp.evaluate("tuned"))
            with atomic_write(arguments.out / "models.md") as table:
                table.write(markdown(arguments.out))
    return 0


class Experiment:
    """One model: its data, its three folders `dense`, `small` and `tuned`, and what is known of them."""

    def __init__(self, out: Path, name: str, model: Model, size: str):
        self.name, self.model, self.size = name, model, size
        self.folder, self.data = out / name, out / "data" / f"{model.corpus}_{model.tokens}_{model.utterances[0]}"
        self.result = read_json(self.folder / "result.json") or {"commit": commit(), "cpu": cpu_name()}
        made = self.result.get("compress", {"size": size}).get("size", DEFAULT_SIZE)
        if made != size:
            raise UserError(f"--size is {size}, but {self.folder} holds the model at {made}; give another --out")

    def step(self, name: str, work) -> None:
        """Run `work` unless its result is known."""
        if name in self.result:
            return
        started = time.monotonic()
        self.result[name] = {**work(), "minutes": round((time.monotonic() - started) / 60, 2)}
        with atomic_write(self.folder / "result.json") as stream:
            stream.write(json.dumps(self.result, indent=1) + "\n")
        print(f"{time.strftime('%H:%M:%S')} {self.name} {name}: {self.result[name]}", flush=True)

    def prepare(self, corpus: Path) -> None:
        """Kaldi folders of the utterances used, a token list, and for BPE a sentencepiece model."""
        if (self.data / "tokens.txt").exists():
            return
        training, testing = self.model.utterances
        train, test = (corpus / "train", corpus / "test") if self.model.corpus == "read" else (
            corpus / "data/train", corpus / "data/test")  # fmt: skip
        text = "text_phones" if self.model.tokens == "phn" else "text"
        everything = read_transcripts(train / text)
        short = sorted(everything, key=lambda name: (len(everything[name]), name))[: training + 100]
        held = set(short[:: len(short) // 100][:100])
        subsets = {
            "dev": (train, everything, sorted(held)),
            "train": (train, everything, sorted(set(short) - held)),
            "test": (test, read_transcripts(test / text), None),
        }
        for name, (source, transcripts, chosen) in subsets.items():
            chosen = chosen or sorted(transcripts)[:: max(len(transcripts) // testing, 1)][:testing]
            listed = read_transcripts(source / "wav.scp")
            audio = {one: (corpus / listed[one][0]).resolve() for one in chosen}
            write_transcripts(self.data / name / "text", {one: transcripts[one] for one in chosen})
            write_transcripts(self.data / name / "wav.scp", {one: [str(audio[one])] for one in chosen})
            if self.model.task != "lm":
                shapes = {one: [str(soundfile.info(audio[one]).frames)] for one in chosen}
                write_transcripts(self.data / name / "speech_shape", shapes)
        tokens = self.pieces() if self.model.tokens == "bpe" else sorted(set().union(*everything.values()))
        with atomic_write(self.data / "tokens.txt") as stream:
            stream.write("".join(f"{token}\n" for token in (*SPECIAL, *tokens, "<sos/eos>")))

    def pieces(self) -> list[str]:
        """Train sentencepiece on the training text; its pieces."""
        import sentencepiece

        lines = [" ".join(words) for words in read_transcripts(self.data / "train/text").values()]
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_prefix=str(self.data / "bpe"), vocab_size=PIECES, model_type="bpe",
            unk_id=0, bos_id=-1, eos_id=-1, minloglevel=2,
        )  # fmt: skip
        loaded = sentencepiece.SentencePieceProcessor(model_file=str(self.data / "bpe.model"))
        return [loaded.id_to_piece(number) for number in range(1, len(loaded))]

    def train_dense(self) -> dict[str, Any]:
        """ESPnet's own training program and stock classes."""
        self.train("dense", CONF / f"{self.name}.yaml")
        return {}

    def train(self, folder: str, config: Path, *more: str) -> None:
        """`asr_train` or `lm_train` into `folder`."""
        kind = self.model.task
        tokens = ["--token_list", self.data / "tokens.txt", "--token_type", "word"]
        if self.model.tokens == "bpe":
            tokens[-1:] = ["bpe", "--bpemodel", self.data / "bpe.model"]
        files = []
        for option, subset in (("train", "train"), ("valid", "dev")):
            source = self.data / subset
            if kind == "asr":
                files += [f"--{option}_data_path_and_name_and_type", f"{source}/wav.scp,speech,sound"]
                files += [f"--{option}_shape_file", source / "speech_shape"]
            files += [f"--{option}_data_path_and_name_and_type", f"{source}/text,text,text"]
        batches = ["--batch_type", "sorted" if kind == "asr" else "unsorted"]
        if kind == "lm":
            for option, subset in (("train", "train"), ("valid", "dev")):
                files += [f"--{option}_shape_file", self.data / subset / "text"]
        self.espnet(
            f"{kind}_train", "--config", config, "--output_dir", self.folder / folder, *tokens, *files, *batches,
            "--ngpu", "0", "--num_workers", "0", "--keep_nbest_models", "1", "--use_matplotlib", "false",
            "--use_tensorboard", "false", "--num_att_plot", "0", "--resume", "true", "--seed", "1", *more,
        )  # fmt: skip

    def checkpoint(self, folder: str) -> Path:
        """The best of a training; what the compression wrote."""
        found = sorted((self.folder / folder).glob("valid.*.best.pth")) or [self.folder / folder / "model.pth"]
        return found[0]

    def compress(self) -> dict[str, Any]:
        """`dirnet compress --espnet`, calibrated on the training set."""
        source = f"{self.folder / 'dense/config.yaml'},{self.checkpoint('dense')}"
        words = ["--espnet", source, "--size", self.size, "--of", "recurrent", "--data", self.data / "train",
                 "--out", self.folder / "small"]  # fmt: skip
        with contextlib.suppress(SystemExit):  # a UserError leaves no report, and the next line says so
            compress.main([str(word) for word in words])
        report = read_json(self.folder / "small/compression.json")
        if report is None:
            raise UserError(f"{self.folder / 'small'} was not made; see above")
        groups = report["groups"]
        weights = [sum(row["rows"] * row["columns"] for row in groups), sum(row["params"] for row in groups)]
        return {"size": self.size, "dense": report["dense"], "small": report["compressed"], "recurrent": weights,
                "relative_error": report["relative_error"]}  # fmt: skip

    def tune(self) -> dict[str, Any]:
        """ESPnet's training program from the compressed model on."""
        start = self.folder / "small"
        self.train("tuned", start / "train.yaml", "--init_param", str(start / "model.pth"), *self.model.tuning)
        return {}

    def evaluate(self, folder: str) -> dict[str, Any]:
        """Token error rate with ESPnet's beam search, or perplexity, on the test set."""
        exp, out, test = self.folder / folder, self.folder / f"test_{folder}", self.data / "test"
        kind, model = self.model.task, self.checkpoint(folder)
        common = ["--output_dir", out, "--ngpu", "0", "--num_workers", "0", "--batch_size", "1"]
        if kind == "lm":
            self.espnet("lm_calc_perplexity", "--train_config", exp / "config.yaml", "--model_file", model,
                        "--data_path_and_name_and_type", f"{test}/text,text,text", *common)  # fmt: skip
            return {"perplexity": float((out / "ppl").read_text(encoding="utf-8"))}
        self.espnet("asr_inference", "--asr_train_config", exp / "config.yaml", "--asr_model_file", model,
                    "--data_path_and_name_and_type", f"{test}/wav.scp,speech,sound", *self.model.decode,
                    *common)  # fmt: skip
        found = read_transcripts(out / "1best_recog/token", allow_empty=True)
        return {"token_errors": score.summarize(score.count(self.references(), found))}

    def references(self) -> dict[str, Sequence[str]]:
        """Test transcripts in the model's tokens."""
        transcripts = read_transcripts(self.data / "test/text")
        if self.model.tokens == "phn":
            return transcripts
        import sentencepiece

        loaded = sentencepiece.SentencePieceProcessor(model_file=str(self.data / "bpe.model"))
        return {one: loaded.encode(" ".join(words), out_type=str) for one, words in transcripts.items()}

    def espnet(self, program: str, *arguments: object) -> None:
        """One of `espnet2.bin`, in this process (the import takes 12-17 s); its output goes to a log."""
        self.folder.mkdir(parents=True, exist_ok=True)
        words = [str(argument) for argument in arguments]
        with open(self.folder / f"{program}.log", "a", encoding="utf-8") as log:
            log.write(shlex.join([program, *words]) + "\n")
            log.flush()
            handler = logging.StreamHandler(log)
            logging.getLogger().handlers = [handler]  # before the program's own basicConfig, which then does nothing
            logging.getLogger().setLevel(logging.INFO)
            with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                importlib.import_module(f"espnet2.bin.{program}").main(words)
            logging.getLogger().removeHandler(handler)


def markdown(out: Path) -> str:
    """The table of all models with results in `out`."""
    lines = [
        "| model | size | recurrent weights | left | parameters | left | dense | compressed | fine-tuned | measure |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for name in MODELS:
        result = read_json(out / name / "result.json") or {}
        if "tuned_score" not in result:
            continue
        sizes = result["compress"]
        scores = [_told(result[f"{step}_score"]) for step in ("dense", "small", "tuned")]
        measure = "perplexity" if "perplexity" in result["dense_score"] else "token error rate"
        lines.append(
            f"| {name} | {sizes.get('size', DEFAULT_SIZE)} | {sizes['recurrent'][0]:,} | {sizes['recurrent'][1]:,} | "
            f"{sizes['dense']['params']:,} | {sizes['small']['params']:,} | {' | '.join(scores)} | {measure} |"
        )
    return "\n".join([*lines, ""])


def _told(found: dict[str, Any]) -> str:
    if "perplexity" in found:
        return f"{found['perplexity']:.2f}"
    errors = found["token_errors"]
    return f"{errors['percent']:.1f} % ({errors['percent_low']:.1f} to {errors['percent_high']:.1f})"


if __name__ == "__main__":
    main()
