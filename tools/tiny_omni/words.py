"""The spoken vocabulary, the sentences drawn from it, and which split a sentence belongs to.

A sentence is a tuple of one to five different words with at most one colour, one animal, one number and one of the two
attribute words, so that a question such as "which animal" has one answer. The split of a sentence is a function of its
words alone: no run, seed or voice can move a sentence from an evaluation split into training.
"""

import hashlib
from typing import Literal

import numpy as np

COLOURS = ("red", "blue", "green", "yellow", "purple", "white")
SHAPES = ("circle", "square", "triangle", "cross", "ring")
ANIMALS = ("dog", "cat", "horse", "tiger", "rabbit", "monkey")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
ATTRIBUTES = ("colour", "shape")
OTHERS = (
    *("table", "window", "garden", "river", "apple", "music", "paper", "house", "take", "find"),
    *("open", "show", "carry", "paint", "now", "today", "here", "again", "slowly", "under"),
)
SPOKEN = (*COLOURS, *ANIMALS, *NUMBERS, *ATTRIBUTES, *OTHERS)
CATEGORIES = {"colour": COLOURS, "animal": ANIMALS, "number": NUMBERS, "attribute": ATTRIBUTES}

Sentence = tuple[str, ...]
Split = Literal["train", "calibration", "search", "report"]

_LENGTH_SHARES = (0.08, 0.17, 0.30, 0.27, 0.18)
_CATEGORY_SHARES = {"colour": 0.45, "animal": 0.45, "number": 0.45, "attribute": 0.28}


def split_of(sentence: Sentence) -> Split:
    """Return the split that ``sentence`` belongs to; single words are always training material."""
    if len(sentence) == 1:
        return "train"
    share = int.from_bytes(hashlib.sha256(" ".join(sentence).encode()).digest()[:4], "big") / 2**32
    if share < 0.84:
        return "train"
    if share < 0.88:
        return "calibration"
    return "search" if share < 0.94 else "report"


def draw_sentence(rng: np.random.Generator) -> Sentence:
    """Draw one sentence of any split: at most one word a category, then other words up to the drawn length."""
    length = int(rng.choice(5, p=_LENGTH_SHARES)) + 1
    words = [str(rng.choice(CATEGORIES[name])) for name, share in _CATEGORY_SHARES.items() if rng.random() < share]
    rng.shuffle(words)
    words = words[:length]
    words += [str(word) for word in rng.choice(OTHERS, size=length - len(words), replace=False)]
    rng.shuffle(words)
    return tuple(words)


def draw_from(split: Split, rng: np.random.Generator) -> Sentence:
    """Draw one sentence that belongs to ``split``."""
    while True:
        sentence = draw_sentence(rng)
        if split_of(sentence) == split:
            return sentence
