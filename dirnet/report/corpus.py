"""Which corpus an experiment was made on: what stage 0 of a recipe leaves in its data folder."""

from __future__ import annotations

from pathlib import Path

NOTES = {
    "mini": "The corpus is synthetic speech that the recipe made itself: these figures show that every step works, not "
    "how well anything recognises people.",
}  # by name of the corpus, what a reader of its figures must know


def corpus_of(data: Path) -> str:
    """Name of the corpus, and where it was taken from; empty where no stage 0 left it in the folder `data`."""
    path = data / ".corpus"
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def note_on(data: Path) -> str:
    """What a reader of figures of this corpus must know, empty for a corpus of real speech."""
    return NOTES.get(corpus_of(data).partition(" ")[0], "")
