import pytest

from autoreap.samples import Sample
from autoreap.scores import Counts
from autoreap.tasks import audio_qa

RIGHT, WRONG, FAILED = (Counts(1, 1), False), (Counts(0, 1), False), (Counts(0, 1), True)


def sample(answer: str = "Dog", choices: tuple[str, ...] = ("Cat", "Dog", "Dog bark"), language: str = "en") -> Sample:
    return Sample(id="a", where="rows:1", question="Who?", answer=answer, choices=choices, language=language)


@pytest.mark.parametrize(
    "output", ["Dog", "dog.", " DOG\n", "B", "b", "(B)", "B.", "B)", "B: Dog", "(b) dog", "B\nDog"]
)
def test_the_right_choice_may_be_named_by_text_or_letter(output: str) -> None:
    assert audio_qa.judge(sample(), output) == RIGHT
    assert audio_qa.judge(sample(answer="B"), output) == RIGHT


@pytest.mark.parametrize("output", ["Cat", "a", "(C)", "dog bark", "A. Dog"])
def test_another_choice_is_wrong_and_has_not_failed(output: str) -> None:
    assert audio_qa.judge(sample(), output) == WRONG


@pytest.mark.parametrize("output", ["", " ", "D", "whale", "Dog or cat", "I hear a dog", "7", "BB"])
def test_what_names_no_choice_is_wrong_and_has_failed(output: str) -> None:
    assert audio_qa.judge(sample(), output) == FAILED


@pytest.mark.parametrize("output", ["A dog barks", "A dog", "a loud one"])
def test_an_article_is_not_taken_for_a_letter(output: str) -> None:
    assert audio_qa.judge(sample(answer="Cat"), output) == FAILED


@pytest.mark.parametrize(
    ("answer", "output", "expected"),
    [
        ("two", "2", RIGHT),
        ("blue", "It is blue", WRONG),
        ("blue", "Blue.", RIGHT),
        ("blue", "", FAILED),
        ("um", "", FAILED),
        ("um", "Um", RIGHT),
    ],
)
def test_an_open_question_compares_the_whole_answer(answer: str, output: str, expected: tuple[Counts, bool]) -> None:
    assert audio_qa.judge(sample(answer, choices=()), output) == expected


def test_a_choice_that_is_a_filler_is_not_named_by_an_empty_output() -> None:
    assert audio_qa.judge(sample("um", choices=("um", "yes")), "") == FAILED
    assert audio_qa.judge(sample("um", choices=("um", "yes")), "um") == RIGHT


def test_choices_in_chinese_are_compared_by_character() -> None:
    assert audio_qa.judge(sample("狗叫", choices=("猫叫", "狗叫"), language="zh"), "狗 叫。") == RIGHT


def test_the_template_places_question_and_choices() -> None:
    asked = audio_qa.question(sample(choices=("Cat", "Dog")), "{question} Of {choices}:\n{lettered}")
    assert asked == "Who? Of Cat, Dog:\nA. Cat\nB. Dog"
    assert audio_qa.question(sample(choices=("Cat", "Dog")), audio_qa.QUESTION) == "Who?\nA. Cat\nB. Dog"


def test_an_open_question_is_asked_as_it_stands() -> None:
    assert audio_qa.question(sample(choices=()), audio_qa.QUESTION) == "Who?"
