"""Speech recognition, scored by word error rate; by character where the language is written without spaces."""

from collections.abc import Sequence
from functools import lru_cache

import jiwer

from autoreap.data.samples import Sample
from autoreap.data.tasks.normalise import units
from autoreap.scores import Counts

NAME = "asr"
METRIC = "wer"
AGGREGATION = "wer"
DIRECTION = "minimize"
MARGIN = 0.005
REQUIRED: tuple[str, ...] = ("audio", "text")
TARGET = "text"
QUESTION = "Transcribe the audio into text."


def reference(sample: Sample) -> str:
    """The transcript."""
    return sample.text or ""


def question(sample: Sample, template: str) -> str:
    """The same for every utterance, unless a row brings its own."""
    return sample.question or template


def judge(sample: Sample, output: str) -> tuple[Counts, bool]:
    """(substitutions + deletions + insertions, reference words), both normalised; any text can be scored."""
    return _word_edits(reference(sample), output, sample.language), False


# Most answers of a candidate were other candidates' before.
@lru_cache(maxsize=1 << 16)
def _word_edits(expected: str, heard: str, language: str | None) -> Counts:
    return edits(units(expected, language), units(heard, language))


def edits(expected: Sequence[str], heard: Sequence[str]) -> Counts:
    """(substitutions + deletions + insertions, length of `expected`); no unit may hold a space."""
    words = jiwer.process_words(" ".join(expected), " ".join(heard))
    errors = words.substitutions + words.deletions + words.insertions
    return Counts(errors, words.hits + words.substitutions + words.deletions)
