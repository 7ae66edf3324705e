"""Speech recognition, scored by character error rate in every language: `metric_list: [{metric: cer}]`."""

from autoreap.media.samples import Sample
from autoreap.scores import Counts
from autoreap.tasks import asr
from autoreap.tasks.normalise import characters

NAME = asr.NAME
METRIC = "cer"
AGGREGATION = "cer"
DIRECTION = asr.DIRECTION
REQUIRED = asr.REQUIRED
TARGET = asr.TARGET
QUESTION = asr.QUESTION

reference = asr.reference
question = asr.question


def judge(sample: Sample, output: str) -> tuple[Counts, bool]:
    """(substitutions + deletions + insertions, reference characters), both normalised; any text can be scored."""
    expected, heard = (characters(text, sample.language) for text in (reference(sample), output))
    return asr.edits(expected, heard), False
