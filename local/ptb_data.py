#!/usr/bin/env python3
"""Text files, one sentence a line, to the form in which ESPnet reads them, and the token list of a language model.

Reads DIR/ptb.{train,valid,test}.txt or DIR/{train,valid,test}.txt, or makes sentences by a small grammar. Leaves
OUT/SET/text (a name, then the words of a sentence), OUT/SET/text_shape (a name and the number of its words) and
OUT/tokens.txt: ESPnet's `<blank>`, `<unk>`, the words of the training text, ESPnet's `<sos/eos>`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from mini_grammar import sentences

from dirnet.errors import UserError, one_line_errors
from dirnet.files import atomic_write
from dirnet.options import Parser, seed

SETS = ("train", "valid", "test")
UNKNOWN = "<unk>"  # a word of the Penn Treebank text, and ESPnet's for all that the training text lacks
FIRST, LAST = ("<blank>", UNKNOWN), ("<sos/eos>",)


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Write the three sets (stage 0) or the token list (stage 1)."""
    parser = Parser(description=__doc__)
    parser.add_argument("what", choices=("text", "tokens"))
    parser.add_argument("--out", default="data", type=Path)
    parser.add_argument("--source", type=Path, help="folder of the text files; without it the grammar's sentences")
    parser.add_argument("--mini_size", default="2000 200 200", help="training, validation and test sentences of those")
    parser.add_argument("--min_count", default=1, type=int, help="how often a word must come to have its own token")
    parser.add_argument("--seed", default=0, type=seed, help="of those")
    arguments = parser.parse_args(argv)
    if arguments.what == "tokens":
        tokens = token_list(arguments.out, arguments.min_count)
        with atomic_write(arguments.out / "tokens.txt") as stream:
            stream.write("\n".join(tokens) + "\n")
        for name in SETS:
            words, known = read_words(arguments.out / name / "text"), set(tokens)
            unknown = sum(word not in known for word in words)
            print(f"{name}: {len(words):,} words, {100 * unknown / len(words):.1f} % of them not in the vocabulary")
        print(f"{arguments.out / 'tokens.txt'}: {len(tokens):,} tokens")
        return 0
    refuse_foreign(arguments.out)
    texts = read_source(arguments.source) if arguments.source else mini(arguments.mini_size, arguments.seed)
    for name, lines in texts.items():
        names = [f"{name}-{number:06}" for number in range(1, len(lines) + 1)]
        with atomic_write(arguments.out / name / "text") as stream:
            stream.writelines(f"{key} {' '.join(words)}\n" for key, words in zip(names, lines, strict=True))
        with atomic_write(arguments.out / name / "text_shape") as stream:
            stream.writelines(f"{key} {len(words)}\n" for key, words in zip(names, lines, strict=True))
        print(f"{name}: {len(lines):,} sentences, {sum(map(len, lines)):,} words")
    return 0


def refuse_foreign(out: Path) -> None:
    """A `UserError` where a data dir with audio stands in the place of a set: another recipe's, whose text would go."""
    for name in SETS:
        if found := next((file for file in ("wav.scp", "utt2spk") if (out / name / file).exists()), None):
            raise UserError(f"{out / name} has a {found}, so another recipe made it; give --workdir for another folder")


def read_source(folder: Path) -> dict[str, list[list[str]]]:
    """The sentences of each set, empty lines left out; a set that is missing, empty or not text is a `UserError`."""
    texts = {}
    for name in SETS:
        paths = [folder / f"ptb.{name}.txt", folder / f"{name}.txt"]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise UserError(f"{folder} holds neither {paths[0].name} nor {paths[1].name}; give the folder of the text")
        try:
            lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); convert it") from None
        texts[name] = [words for words in lines if words]
        if not texts[name]:
            raise UserError(f"{path} holds no words; copy or download it again")
        for number, words in enumerate(lines, start=1):
            reserved = {FIRST[0], *LAST}.intersection(words)
            if reserved:
                raise UserError(f"{path}, line {number}: {reserved.pop()} is ESPnet's own token; take it out")
    return texts


def mini(size: str, seed: int) -> dict[str, list[list[str]]]:
    """Different sentences of the grammar in three sets, lower case; `size` has their numbers."""
    try:
        numbers = [int(word) for word in size.split()]
    except ValueError:
        numbers = []
    if len(numbers) != len(SETS) or min(numbers) < 1:
        raise UserError(f"--mini_size is {size!r}, expected three whole numbers above 0, such as '2000 200 200'")
    lines = [line.lower().split() for line in sentences(sum(numbers), seed)]
    ends = [sum(numbers[:end]) for end in range(len(numbers) + 1)]
    return {name: lines[first:last] for name, first, last in zip(SETS, ends, ends[1:], strict=False)}


def token_list(data: Path, min_count: int = 1) -> list[str]:
    """ESPnet's tokens around the words that the training text has `min_count` times or more, frequent ones first."""
    if min_count < 1:
        raise UserError(f"--min_count is {min_count}, expected 1 or more")
    counts = Counter(read_words(data / "train" / "text"))
    words = [word for word, count in counts.items() if count >= min_count and word != UNKNOWN]
    if not words:
        raise UserError(f"--min_count {min_count} leaves no word of {data}/train/text; give fewer")
    words.sort(key=lambda word: (-counts[word], word))
    return [*FIRST, *words, *LAST]


def read_words(path: Path) -> list[str]:
    """Every word of a text file whose lines begin with a name."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run stage 0 first") from None
    return [word for line in lines for word in line.split()[1:]]


if __name__ == "__main__":
    main()
