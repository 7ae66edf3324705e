"""What every task promises. A new task inherits `TaskContract` and supplies its samples."""

from typing import ClassVar

import pytest

from autoreap.data.samples import Sample
from autoreap.data.tasks import TASKS, Task, asr, asr_characters, audio_qa, task_named
from autoreap.scores import Counts, score

OUTPUTS = ["", " \n", "?", "A", "certainly nothing that was asked", "B. 42 -- {x}", "\u2028\x00", "word " * 500, "你好"]


class TaskContract:
    """The promises of `tasks.Task`.

    Attributes:
        task: the task under test.
        samples: rows that have what it requires; among them every kind of row that it treats on its own.
    """

    task: ClassVar[Task]
    samples: ClassVar[tuple[Sample, ...]]

    def is_perfect(self, counts: Counts) -> bool:
        return counts.numerator == (0 if self.task.DIRECTION == "minimize" else counts.denominator)

    def test_it_is_found_by_its_name(self) -> None:
        assert task_named(self.task.NAME, self.task.METRIC) is self.task

    def test_it_describes_itself(self) -> None:
        assert self.task.METRIC.isidentifier()
        assert self.task.DIRECTION in ("minimize", "maximize")
        assert self.task.AGGREGATION in (self.task.METRIC, "mean")
        assert set(self.task.REQUIRED) <= set(Sample.__dataclass_fields__)
        assert self.task.TARGET in self.task.REQUIRED
        assert self.task.QUESTION

    def test_its_samples_have_what_it_requires(self) -> None:
        spoken = ("question",)  # may be heard instead
        keys = [key for key in self.task.REQUIRED if key not in spoken]
        missing = [key for sample in self.samples for key in keys if not getattr(sample, key)]
        assert missing == []

    def test_the_reference_is_perfect(self) -> None:
        for sample in self.samples:
            counts, failed = self.task.judge(sample, self.task.reference(sample))
            assert self.is_perfect(counts)
            assert not failed

    @pytest.mark.parametrize("output", ["", " ", "\n\t"])
    def test_an_empty_output_is_never_perfect(self, output: str) -> None:
        for sample in self.samples:
            assert not self.is_perfect(self.task.judge(sample, output)[0])

    @pytest.mark.parametrize("output", OUTPUTS)
    def test_any_output_is_judged_the_same_way_twice_with_counts_that_can_be_summed(self, output: str) -> None:
        for sample in self.samples:
            counts, failed = self.task.judge(sample, output)
            assert (counts, failed) == self.task.judge(sample, output)
            assert counts.numerator >= 0
            assert counts.denominator > 0
            assert score([counts]).numerator == counts.numerator

    @pytest.mark.parametrize("output", OUTPUTS)
    def test_what_failed_never_counts_as_right(self, output: str) -> None:
        for sample in self.samples:
            counts, failed = self.task.judge(sample, output)
            assert not (failed and self.is_perfect(counts))

    def test_the_denominator_depends_on_the_sample_and_not_on_the_output(self) -> None:
        for sample in self.samples:
            assert len({self.task.judge(sample, output)[0].denominator for output in OUTPUTS}) == 1

    def test_what_is_asked_holds_the_row_s_own_question_and_never_its_reference(self) -> None:
        for sample in self.samples:
            asked = self.task.question(sample, self.task.QUESTION)
            assert asked
            assert (sample.question or "") in asked
            assert sample.choices or self.task.reference(sample) not in asked


AUDIO = b"encoded audio"


class TestAsr(TaskContract):
    task: ClassVar[Task] = asr
    samples: ClassVar[tuple[Sample, ...]] = (
        Sample(id="en", where="rows:1", audio=AUDIO, text="Nobody expected that."),
        Sample(id="zh", where="rows:2", audio=AUDIO, text="今天天气很好", language="zh"),
        Sample(id="own", where="rows:3", audio=AUDIO, text="Nobody came.", question="What was said?"),
    )


class TestAsrCharacters(TaskContract):
    task: ClassVar[Task] = asr_characters
    samples: ClassVar[tuple[Sample, ...]] = TestAsr.samples


class TestAudioQa(TaskContract):
    task: ClassVar[Task] = audio_qa
    samples: ClassVar[tuple[Sample, ...]] = (
        Sample(id="text", where="rows:1", question="Who barks?", answer="the dog", choices=("a cat", "the dog")),
        Sample(id="letter", where="rows:2", question="Who barks?", answer="D", choices=("cat", "owl", "cow", "dog")),
        Sample(id="open", where="rows:3", question="How many?", answer="seventeen"),
        Sample(id="filler", where="rows:4", question="What is heard?", answer="um"),
        Sample(id="zh", where="rows:5", question="谁在叫？", answer="一只狗", language="zh"),
        Sample(id="yes", where="rows:6", question="Is it a dog?", answer="yes"),
        Sample(id="several", where="rows:7", question="Who barks?", answer="a dog", answers=("dog", "hound")),
        Sample(id="heard", where="rows:8", audio=AUDIO, answer="C", choices=("A", "B", "C", "D")),
    )


def test_every_task_is_held_to_the_contract() -> None:
    held = [contract.task for contract in TaskContract.__subclasses__()]
    assert {(task.NAME, task.METRIC) for task in held} == {(task.NAME, task.METRIC) for task in TASKS}
    assert len({task.METRIC for task in TASKS}) == len(TASKS)
