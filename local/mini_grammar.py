"""The sentences of the mini corpus: a small grammar of everyday English, every word of it in CMUdict."""

from __future__ import annotations

import math
import random
import re

from dirnet.errors import UserError

WORDS = {
    "name": "Anna David Emma Frank George Helen Jack Kate Linda Martin Nina Oscar Paul Rosa Susan Tom",
    "relative": "mother father sister brother cousin uncle aunt daughter son grandmother",
    "job": "doctor teacher farmer driver painter baker pilot nurse singer lawyer sailor captain",
    "animal": "dog cat horse bird fox rabbit cow sheep mouse duck bear goat",
    "animals": "dogs cats horses birds foxes rabbits cows ducks bears goats",
    "thing": "book lamp chair table letter picture basket bottle ticket blanket hammer candle mirror jacket guitar",
    "things": "books lamps chairs letters pictures baskets bottles tickets apples flowers candles stones boxes coats",
    "food": "bread cheese soup rice fish butter honey coffee tea milk sugar pepper",
    "place": "garden kitchen river bridge station market school harbor forest village church library office "
    "mountain castle museum",
    "town": "London Boston Paris Dublin Berlin Chicago Madrid Denver",
    "adjective": "small large old new quiet strange heavy bright empty broken clean dark gentle narrow wooden yellow",
    "color": "red blue green white black brown gray orange purple",
    "feeling": "happy tired hungry angry proud nervous lonely sick brave",
    "verb_past": "found lost sold bought painted carried dropped opened moved washed borrowed followed remembered",
    "verb": "find sell buy paint carry open move wash borrow watch draw keep",
    "went": "walked ran traveled hurried drove sailed returned",
    "slept": "slept waited played laughed worked danced rested stayed",
    "near": "behind near under above beside across inside around",
    "vehicle": "train bus boat bicycle plane car truck",
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "month": "January February March April June July August October December",
    "time": "yesterday tonight today tomorrow",
    "part": "morning afternoon evening night",
    "weather": "rain snow wind fog thunder sunshine",
    "meal": "breakfast lunch dinner supper",
    "number": "two three four five six seven eight nine ten eleven twelve fifteen twenty thirty fifty",
    "digit": "zero one two three four five six seven eight nine",
    "unit": "miles hours minutes weeks days months years",
    "side": "left right",
    "the": "the my your our this every that",
    "how": "slowly quickly quietly carefully suddenly often always never",
}
TEMPLATES = """
{the} {adjective} {thing} is {near} the {place}
{name} {verb_past} {number} {color} {things} {time}
please {verb} the {color} {thing} {near} the {place}
can you {verb} {the} {adjective} {thing} before {day} {part}
{name} and {name} {went} to {town} by {vehicle}
the {thing} costs {number} dollars and {number} cents
we will meet {name} at {number} o'clock on {day}
there will be {weather} in {town} on {day} {part}
why did the {animal} follow {name} to the {place}
my {relative} wants some {food} and {food} for {meal}
I never saw such {adjective} {animals} in {month}
turn {side} after the {adjective} {place} and walk {number} {unit}
there are {number} {adjective} {things} {near} the {place}
the {job} {went} {how} from the {place} to the {place}
{number} {animals} {slept} {near} {the} {adjective} {place}
her {relative} was {feeling} because the {thing} was {adjective}
dial {digit} {digit} {digit} {digit} and ask for {name}
the {job} {verb_past} the {adjective} {thing} in {town} last {month}
does your {relative} {how} drink {food} with {meal}
it took {number} {unit} to {verb} the {things}
{name} is {feeling} when the {weather} comes in {month}
some {animals} {slept} {how} while the {job} {verb_past} the {food}
give the {color} {things} to the {job} {near} the {place}
I think {name} {verb_past} my {thing} on {day} {part}
"""


def sentences(number: int, seed: int) -> list[str]:
    """`number` different sentences in upper case, always the same for a seed; more than there are is a `UserError`."""
    rng = random.Random(f"sentences {seed}")
    words = {slot: choices.split() for slot, choices in WORDS.items()}
    templates = TEMPLATES.strip().splitlines()
    least = min(math.prod(len(words[slot]) for slot in re.findall(r"\{(\w+)\}", line)) for line in templates)
    if number > (most := least * len(templates)):  # they take turns
        raise UserError(f"--mini_size asks for {number} sentences, the grammar has {most}; ask for fewer")
    made: dict[str, None] = {}
    while len(made) < number:
        template = templates[len(made) % len(templates)]
        made.setdefault(re.sub(r"\{(\w+)\}", lambda slot: rng.choice(words[slot[1]]), template).upper())
    return list(made)


def vocabulary() -> set[str]:
    """Every word that a sentence can have, in upper case."""
    fixed = re.sub(r"\{\w+\}", " ", TEMPLATES)
    return {word.upper() for text in (fixed, *WORDS.values()) for word in text.split()}
