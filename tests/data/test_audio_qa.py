import pytest

from autoreap.data.samples import Sample
from autoreap.data.tasks import audio_qa
from autoreap.scores import Counts

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


@pytest.mark.parametrize(
    "output",
    [
        *("The answer is (B).", "The answer is B", "the correct answer is: B", "Answer: B.", "the answer is b"),
        *("I think the answer is B because it barks.", "The correct option is B) Dog", "Option B", "My choice is B"),
        *("The answer is dog.", "Answer: Dog", "**B**", "**B. Dog**", '"B"', "[B]", "B!"),
    ],
)
def test_an_answer_may_be_announced_quoted_or_set_in_bold(output: str) -> None:
    assert audio_qa.judge(sample(), output) == RIGHT


@pytest.mark.parametrize(
    "output", ["答案是B", "答案：B", "正确答案为（B）。", "选B", "我选 B。", "选项B", "B。", "B、狗", "Ｂ：狗"]
)
def test_an_answer_may_be_announced_in_chinese(output: str) -> None:
    assert audio_qa.judge(sample("狗", choices=("猫", "狗", "狗叫"), language="zh"), output) == RIGHT


@pytest.mark.parametrize(
    "output",
    [
        *("The answer is A or B", "B or C", "A. Cat or B. Dog", "答案是A和B", "选A或B"),
        "The answer is A. Wait, the answer is B.",
    ],
)
def test_two_letters_name_nothing(output: str) -> None:
    assert audio_qa.judge(sample(), output) == FAILED


@pytest.mark.parametrize("output", ["The answer is not B", "The answer is A dog", "选手B", "可选择B"])
def test_a_letter_that_is_not_announced_as_the_answer_names_nothing(output: str) -> None:
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


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        *[(output, RIGHT) for output in ("yes", "Yes.", "Yes, it is.", "Yes, there is no cat.", "The answer is yes.")],
        *[(output, WRONG) for output in ("no", "No.", "Nope", "No, it is not.", "No, there is no dog")],
        *[(output, FAILED) for output in ("yes and no", "yes or no", "Yes. No.", "maybe", "I hear a dog", "")],
    ],
)
@pytest.mark.parametrize("choices", [(), ("yes", "no"), ("No", "Yes")])
def test_yes_or_no_is_read_from_how_the_output_begins(
    output: str, expected: tuple[Counts, bool], choices: tuple[str, ...]
) -> None:
    assert audio_qa.judge(sample("Yes", choices=choices), output) == expected


@pytest.mark.parametrize(
    ("output", "expected"),
    [("是的，有狗。", RIGHT), ("对", RIGHT), ("不是", WRONG), ("不是的，没有", WRONG), ("也许", FAILED)],
)
def test_yes_or_no_is_read_in_chinese(output: str, expected: tuple[Counts, bool]) -> None:
    assert audio_qa.judge(sample("是", choices=(), language="zh"), output) == expected


@pytest.mark.parametrize(
    ("output", "expected"),
    [("Hound.", RIGHT), ("the answer is: a dog", RIGHT), ("cat", WRONG), ("a dog or a hound", WRONG), (" ", FAILED)],
)
def test_of_several_answers_any_is_right(output: str, expected: tuple[Counts, bool]) -> None:
    several = Sample(id="a", where="rows:1", question="Who?", answer="a dog", answers=("hound",))
    assert audio_qa.judge(several, output) == expected


def test_a_question_that_is_heard_is_not_asked_in_words() -> None:
    heard = Sample(id="a", where="rows:1", audio=b"sound", answer="B", choices=("A", "B"))
    assert audio_qa.question(heard, "Answer with a letter.") == "Answer with a letter."


@pytest.mark.parametrize("output", ["\ufeffB", "«Dog»", "「B」", "B\u200b.", "Ｂ", "do\xadg", "„dog“"])
def test_invisible_marks_and_quotes_of_any_kind_hide_no_answer(output: str) -> None:
    assert audio_qa.judge(sample(), output) == RIGHT


def test_choices_that_differ_in_marks_alone_are_told_apart() -> None:
    for right, other in (("C++", "C"), ("-5", "5"), ("don’t know", "know")):
        asked = sample(right, choices=(other, right))
        assert audio_qa.judge(asked, right) == RIGHT
        assert audio_qa.judge(asked, other) == WRONG


def test_any_of_several_answers_may_be_chosen() -> None:
    asked = Sample(id="a", where="x", question="Who?", answer="Cat", answers=("Dog",), choices=("Cat", "Dog", "Cow"))
    assert audio_qa.judge(asked, "B") == audio_qa.judge(asked, "cat") == RIGHT
    assert audio_qa.judge(asked, "C") == WRONG
