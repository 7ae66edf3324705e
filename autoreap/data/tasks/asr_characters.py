"""Speech recognition, scored by character error rate in every language: `metric_list: [{metric: cer}]`."""

from autoreap.data.samples import Sample
from autoreap.data.tasks import asr
from autoreap.data.tasks.normalise import characters
from autoreap.scores import Counts

NAME = asr.NAME
METRIC = "cer"
AGGREGATION = "cer"
DIRECTION = asr.DIRECTION
MARGIN = asr.MARGIN
REQUIRED = asr.REQUIRED
TARGET = asr.TARGET
QUESTION = asr.QUESTION

reference = asr.reference
question = asr.question


def judge(sample: Sample, output: str) -> tuple[Counts, bool]:
    """(substitutions + deletions + insertions, reference characters), both normalised; any text can be scored."""
    expected = characters(reference(sample), sample.language)
    heard = characters(output, sample.language)
    return asr.edits(expected, heard), False
