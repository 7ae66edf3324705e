"""What the tiny model is asked, in which words, and what it should answer.

Every task is a user message of media followed by a short text. These are all the prompts the model knows:

| task | text | answer |
|---|---|---|
| transcription | transcribe (also: Transcribe the audio into text.) | the words |
| question | first word, second word, last word | the word |
| question | how many words | a number word |
| multiple choice | which colour, then a line each: A. red, B. blue, C. green | the choice's text |
| | (also: which animal, which number) | |
| caption | describe, which colour, which shape | colour and shape, or one of them |
| mixed | answer | the colour or shape in the image, whichever word is spoken |
| mixed | colour and first word | the image's colour, then the first spoken word |
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tools.tiny_omni.words import CATEGORIES, NUMBERS, Sentence

Modality = Literal["audio", "video", "mixed"]

TRANSCRIBE = "transcribe"
TRANSCRIBE_LONG = "Transcribe the audio into text."
DESCRIBE = "describe"
SPOKEN_QUESTION = "answer"
COLOUR_AND_FIRST = "colour and first word"
OPEN_KINDS = ("first", "second", "last", "count")
CHOICE_KINDS = ("colour", "animal", "number")
QUESTION_KINDS = (*OPEN_KINDS, *CHOICE_KINDS)
_OPEN_QUESTIONS = {"first": "first word", "second": "second word", "last": "last word", "count": "how many words"}
NUM_CHOICES = 3


@dataclass(frozen=True)
class Question:
    """One question about an utterance or an image; ``choices`` is empty for an open question."""

    kind: str
    text: str
    answer: str
    choices: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        """The user text as the model was trained on it: the question, then the choices."""
        letters = (f"{letter}. {choice}" for letter, choice in zip("ABC", self.choices, strict=False))
        return "\n".join([self.text, *letters])


def ask(kind: str, sentence: Sentence, rng: np.random.Generator) -> Question | None:
    """Return the question of ``kind`` about ``sentence``, or None where the sentence has no answer to it."""
    if kind in CHOICE_KINDS:
        category = CATEGORIES[kind]
        said = [word for word in sentence if word in category]
        if not said:
            return None
        others = rng.choice([word for word in category if word != said[0]], size=NUM_CHOICES - 1, replace=False)
        choices = tuple(str(word) for word in rng.permutation([said[0], *others]))
        return Question(kind, f"which {kind}", said[0], choices)
    if kind == "second" and len(sentence) < 2:
        return None
    answers = {"first": sentence[0], "second": sentence[min(1, len(sentence) - 1)], "last": sentence[-1]}
    return Question(kind, _OPEN_QUESTIONS[kind], answers.get(kind, NUMBERS[len(sentence) - 1]))


def reworded(question: Question, rng: np.random.Generator) -> str:
    """Return the prompt, sometimes with the choices on its line or left out, so that wording matters less."""
    draw = rng.random()
    if not question.choices or draw < 0.6:
        return question.prompt
    return f"{question.text}: {', '.join(question.choices)}" if draw < 0.8 else question.text


def ask_image(colour: str, shape: str, rng: np.random.Generator) -> Question:
    """Return a training question about an image: half of the time its caption, else one attribute."""
    if rng.random() < 0.5:
        return caption(colour, shape)
    kind, answer = ("colour", colour) if rng.random() < 0.5 else ("shape", shape)
    return Question(kind, f"which {kind}", answer)


def caption(colour: str, shape: str) -> Question:
    """Return the caption task for an image."""
    return Question("caption", DESCRIBE, f"{colour} {shape}")


def ask_mixed(
    sentence: Sentence, colour: str, shape: str, rng: np.random.Generator, spoken_share: float = 0.8
) -> Question:
    """Return a question that needs the utterance and the image.

    Where "colour" or "shape" is spoken, the image is asked about that, ``spoken_share`` of the time.
    """
    spoken = {"colour": colour, "shape": shape}
    said = [word for word in sentence if word in spoken]
    if said and rng.random() < spoken_share:
        return Question("mixed", SPOKEN_QUESTION, spoken[said[0]])
    return Question("mixed", COLOUR_AND_FIRST, f"{colour} {sentence[0]}")
