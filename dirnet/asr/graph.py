"""The decoding graph TLG = T o min(det(L o G)): CTC topology, lexicon and n-gram grammar in one transducer.

Input labels are model outputs + 1 (0 is epsilon), output labels the words of `words.txt`. The outputs `#0` (back-off of
G) and `#1`, `#2` ... (which keep pronunciations apart that are equal or start another one) exist only while building;
their labels come behind those of the V outputs: `#0` is V + 1, `#1` the next, and so on.
"""

from __future__ import annotations

import gzip
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import kaldifst
from kaldifst import StdArc, StdVectorFst

from dirnet.asr.lexicon import SIL, Pronunciations, outputs_of, read_spellings
from dirnet.asr.ngram import BOS, EOS, UNK, read_arpa_words
from dirnet.asr.tokens import SPACE
from dirnet.asr.transcripts import read_fields, whole_gzip
from dirnet.errors import UserError, one_line_errors
from dirnet.options import Parser

HALF = -math.log(0.5)  # the cost of silence, and of none, where it is optional


def topology(outputs: int, disambiguation: int) -> StdVectorFst:
    """T: reads model outputs (blanks, repeats) and writes tokens; equal tokens in a row need a blank between them.

    State 0 stands after a blank (output 0) or at the start, state k after token k; `#0` .. of the given number pass
    through.
    """
    fst = StdVectorFst()
    for state in range(outputs):
        fst.add_state()
        fst.set_final(state, 0.0)
    fst.start = 0
    for state in range(outputs):
        for token in range(outputs):
            fst.add_arc(state, StdArc(token + 1, token + 1 if token not in (0, state) else 0, 0.0, token))
        for number in range(disambiguation):
            fst.add_arc(state, StdArc(0, outputs + 1 + number, 0.0, state))
    return fst


def disambiguate(pronunciations: Sequence[tuple[str, ...]]) -> tuple[list[int], int]:
    """The number n of the symbol `#n` that ends each pronunciation (0: none) and the highest one.

    A pronunciation needs one when it is not the only one of its phones or when it starts a longer one.
    """
    times = Counter(pronunciations)
    prefixes = {phones[:length] for phones in times for length in range(1, len(phones))}
    used: Counter = Counter()
    numbers = []
    for phones in pronunciations:
        if times[phones] > 1 or phones in prefixes:
            used[phones] += 1
        numbers.append(used[phones])
    return numbers, max(used.values(), default=0)


def lexicon_fst(
    lexicon: Pronunciations, words: dict[str, int], outputs: Sequence[str], optional: str | None
) -> tuple[StdVectorFst, int]:
    """L: tokens to words of any number, with the self-loop for `#0`, and how many disambiguation symbols it uses.

    `optional`, silence or the space of characters, may stand, at a probability of one half, before the first word and
    after each.
    """
    label_of = {token: number for number, token in enumerate(outputs, start=1)}
    backoff = len(outputs) + 1
    entries = [(words[word], phones) for word in lexicon for phones in lexicon[word]]
    numbers, highest = disambiguate([phones for _, phones in entries])
    fst = StdVectorFst()
    start = loop = fst.add_state()
    fst.start = start
    pause = None
    if optional:
        highest += 1  # one more symbol, so that it is never taken for the first token of a word
        loop, pause, paused = fst.add_state(), fst.add_state(), fst.add_state()
        fst.add_arc(start, StdArc(0, 0, HALF, loop))
        fst.add_arc(start, StdArc(0, 0, HALF, pause))
        fst.add_arc(pause, StdArc(label_of[optional], 0, 0.0, paused))
        fst.add_arc(paused, StdArc(backoff + highest, 0, 0.0, loop))
    fst.set_final(loop, 0.0)
    fst.add_arc(loop, StdArc(backoff, words["#0"], 0.0, loop))
    for (word, phones), number in zip(entries, numbers, strict=True):
        labels = [label_of[token] for token in phones] + ([backoff + number] if number else [])
        state = loop
        for position, label in enumerate(labels):
            last = position == len(labels) - 1
            after = loop if last and pause is None else fst.add_state()
            fst.add_arc(state, StdArc(label, 0 if position else word, 0.0, after))
            state = after
        if pause is not None:
            fst.add_arc(state, StdArc(0, 0, HALF, loop))
            fst.add_arc(state, StdArc(0, 0, HALF, pause))
    return fst, highest + 1


def grammar(arpa: str | Path, words_txt: str | Path) -> StdVectorFst:
    """G from an ARPA file (plain or .gz); n-grams with a word that `words_txt` lacks are left out.

    kaldilm ends its whole process on a broken file, hence a process of its own.
    """
    with tempfile.TemporaryDirectory() as folder:
        plain, binary = _plain(arpa, os.path.join(folder, "lm.arpa")), os.path.join(folder, "G.fst")
        options = ["--disambig-symbol=#0", f"--read-symbol-table={words_txt}", "--max-arpa-warnings=0"]
        result = subprocess.run(
            [sys.executable, "-m", "kaldilm", *options, plain, binary],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if result.returncode:
            lines = [line for line in result.stderr.splitlines() if line.startswith("[E]")] or [result.stderr[-300:]]
            raise UserError(f"{arpa} is no whole ARPA language model: {lines[0]}; get or estimate it again")
        return StdVectorFst.read(binary)


def _plain(arpa: str | Path, copy: str) -> str:
    """`arpa`, or `copy` made of it where it is packed or has carriage returns, neither of which kaldilm reads."""
    packed = str(arpa).endswith(".gz")
    with (gzip.open if packed else open)(arpa, "rb") as source, whole_gzip(arpa):
        first = source.readline()
        if not packed and not first.endswith(b"\r\n"):
            return str(arpa)
        with open(copy, "wb") as target:
            target.writelines(line.replace(b"\r\n", b"\n") for line in itertools.chain([first], source))
    return copy


def compile_graph(
    lexicon: Pronunciations,
    words: dict[str, int],
    g: StdVectorFst,
    outputs: Sequence[str],
    optional: str | None,
    say: Callable[[str], None] = print,
) -> StdVectorFst:
    """TLG of `lexicon` and the grammar `g` (see the top of the module); `words` are the ids of `words.txt`.

    outputs: the names of the model's outputs, the blank first; optional: as in `lexicon_fst`.
    """
    started = time.perf_counter()

    def told(name: str, fst: StdVectorFst) -> StdVectorFst:
        say(f"{time.perf_counter() - started:7.1f} s  {name}: {fst.num_states} states")
        return fst

    fst, disambiguation = lexicon_fst(lexicon, words, outputs, optional)
    kaldifst.arcsort(fst, "olabel")
    kaldifst.arcsort(g, "ilabel")
    fst = told("L o G", StdVectorFst(kaldifst.compose(fst, g)))
    kaldifst.determinize_star(fst, use_log=True)
    told("determinized", fst)
    kaldifst.minimize_encoded(fst)
    told("minimized", fst)
    kaldifst.arcsort(fst, "ilabel")
    top = topology(len(outputs), disambiguation)
    kaldifst.arcsort(top, "olabel")
    fst = told("T o LG", StdVectorFst(kaldifst.compose(top, fst)))
    kaldifst.arcsort(fst, "ilabel")
    return fst


def read_words(path: str | Path) -> dict[str, int]:
    """The symbol table `words.txt`: word -> id."""
    words = {}
    for number, fields in read_fields(path):
        if len(fields) != 2 or not fields[1].isdigit():
            raise UserError(f"{path}:{number}: expected `word id`; make the lexicon again")
        words[fields[0]] = int(fields[1])
    return words


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Compile LANG/TLG.fst from LANG/{lexicon,words}.txt, LANG/lang.json and an ARPA language model."""
    parser = Parser(prog="python -m dirnet.asr.graph", description=main.__doc__)
    parser.add_argument("--lang", required=True, help="folder that `dirnet.asr.lexicon` made")
    parser.add_argument("--arpa", required=True, help="n-gram language model, .arpa or .arpa.gz")
    arguments = parser.parse_args(argv)
    lang = Path(arguments.lang)
    lexicon, words, outputs = read_spellings(lang), read_words(lang / "words.txt"), outputs_of(lang)
    spoken = set(read_arpa_words(arguments.arpa)) - {BOS, EOS}
    known = {word: pronunciations for word, pronunciations in lexicon.items() if word in spoken}
    if not known:
        raise UserError(
            f"none of the {len(spoken)} words of {arguments.arpa} is in {lang}/lexicon.txt"
            f" ({max(spoken, default='')!r} is not, for one); are they in the same letter case?"
        )
    unknown = len(spoken - {UNK}) - len(known.keys() - {UNK})
    left_out = f"; {unknown} of {arguments.arpa} have no pronunciation and are left out" if unknown else ""
    print(f"{len(known)} words{left_out}")
    try:
        optional = SIL if json.loads((lang / "lang.json").read_text())["silence"] != "none" else None
    except (FileNotFoundError, KeyError, json.JSONDecodeError):
        raise UserError(f"{lang}/lang.json is missing or broken; make the lexicon again") from None
    if SPACE in outputs:
        optional = SPACE
    fst = compile_graph(known, words, grammar(arguments.arpa, lang / "words.txt"), outputs, optional)
    if fst.start < 0:
        raise UserError(f"no sentence of {arguments.arpa} can be pronounced with {lang}/lexicon.txt; check both")
    target = lang / "TLG.fst"
    with tempfile.TemporaryDirectory(dir=lang, prefix=".TLG.") as folder:
        whole = os.path.join(folder, "TLG.fst")
        if not fst.write(whole):
            raise UserError(f"{target} cannot be written; is the disk full?")
        os.replace(whole, target)
    print(f"{target}: {fst.num_states} states, {target.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    main()
