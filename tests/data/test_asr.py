import pytest

from autoreap.data.samples import Sample
from autoreap.data.tasks import asr, asr_characters
from autoreap.scores import Counts


def errors(expected: str, heard: str, language: str | None = None) -> tuple[int, int]:
    counts, failed = asr.judge(Sample(id="a", where="rows:1", text=expected, language=language), heard)
    assert not failed
    return counts.numerator, counts.denominator


@pytest.mark.parametrize(
    ("heard", "expected"),
    [
        ("the cat sat on the mat", (0, 6)),
        ("the dog sat on the mat", (1, 6)),
        ("the cat sat on mat", (1, 6)),
        ("the black cat sat on the mat", (1, 6)),
        ("a dog sat the mat today", (4, 6)),  # two substitutions, one deletion, one insertion
        ("sat", (5, 6)),
        ("", (6, 6)),
        ("  \n", (6, 6)),
        ("the cat sat on the mat " * 3, (12, 6)),
    ],
)
def test_substitutions_deletions_and_insertions_are_counted_over_reference_words(
    heard: str, expected: tuple[int, int]
) -> None:
    assert errors("the cat sat on the mat", heard) == expected


@pytest.mark.parametrize(
    ("text", "heard"),
    [
        ("Hello, World!", "hello world"),
        ("It's Mr. Smith; he won't come.", "it is mister smith he will not come"),
        ("The colour of twenty-one cars", "the color of 21 cars"),
        ("um, yes", "yes"),
        ("yes [laughter]", "yes"),
        ("The U.S.A. and the U.K., e.g. Ohio", "the USA and the UK eg Ohio"),
    ],
)
@pytest.mark.parametrize("language", [None, "en", "en-GB", "EN"])
def test_case_punctuation_and_spelling_are_no_errors_in_english(text: str, heard: str, language: str | None) -> None:
    assert errors(text, heard, language)[0] == 0


@pytest.mark.parametrize(
    ("language", "text", "heard", "expected"),
    [
        ("zh", "今天天气很好。", "今天天气很好", (0, 6)),
        ("zh", "今天天气很好", "今天 天汽 很好", (1, 6)),
        ("zh-CN", "今天天气很好", "今天很好", (2, 6)),
        ("cmn_hans_cn", "今天天气很好", "今天", (4, 6)),
        ("ja", "こんにちは", "", (5, 5)),
        ("th", "ที่นี่", "ทีนี่", (1, 6)),  # a tone mark is a character
        ("ko", "안녕 하세요", "안녕 하세여", (1, 2)),
    ],
)
def test_languages_without_spaces_are_scored_by_character(
    language: str, text: str, heard: str, expected: tuple[int, int]
) -> None:
    assert errors(text, heard, language) == expected


@pytest.mark.parametrize(
    ("language", "text", "heard", "expected"),
    [
        ("de", "Straße, bitte!", "strasse bitte", (1, 2)),
        ("fr", "Ça va?", "ça va", (0, 2)),
        ("hi", "नमस्ते दुनिया।", "नमस्ते दुनिया", (0, 2)),  # vowel signs belong to their word
        ("es", "Hola (risas) mundo", "hola mundo", (0, 2)),
        ("de", "Farbe colour", "farbe color", (1, 2)),  # the English spelling map is for English alone
    ],
)
def test_other_languages_lose_case_and_punctuation_alone(
    language: str, text: str, heard: str, expected: tuple[int, int]
) -> None:
    assert errors(text, heard, language) == expected


@pytest.mark.parametrize(("heard", "num_errors"), [("", 0), ("yes", 1)])
def test_a_reference_of_nothing_but_fillers_adds_no_words_but_keeps_its_insertions(heard: str, num_errors: int) -> None:
    assert errors("Um, uh.", heard) == (num_errors, 0)


def test_a_row_may_bring_its_own_question() -> None:
    own = Sample(id="a", where="rows:1", text="x", question="What is said?")
    assert asr.question(own, "transcribe") == "What is said?"
    assert asr.question(Sample(id="a", where="rows:1", text="x"), "transcribe") == "transcribe"
    assert asr.judge(own, "x")[0] == Counts(0, 1)


@pytest.mark.parametrize(
    ("text", "heard", "expected"),
    [
        ("我用 iPhone 拍照", "我用iphone拍照", (0, 5)),  # a character each, and a word
        ("我用 iPhone 拍照", "我用 eye phone 拍照", (2, 5)),
        ("２００７年，Ｏ K！", "2007年 o k", (0, 4)),
        ("二〇〇七年", "二零零七年", (0, 5)),
        ("他（笑）说", "他笑说", (0, 3)),
        ("[音乐]你好", "你好", (0, 2)),
    ],
)
def test_in_chinese_latin_letters_make_words_and_full_width_is_no_error(
    text: str, heard: str, expected: tuple[int, int]
) -> None:
    assert errors(text, heard, "zh-CN") == expected


@pytest.mark.parametrize(
    ("language", "text", "heard", "expected"),
    [
        ("en", "The colour, please!", "the color pleas", (1, 14)),
        ("en", "in to", "into", (0, 4)),  # spaces do not count
        ("zh", "我用 iPhone", "我用 iphome", (1, 8)),
        ("ko", "안녕 하세요", "안녕 하세여", (1, 5)),
    ],
)
def test_the_character_error_rate_counts_characters_in_every_language(
    language: str, text: str, heard: str, expected: tuple[int, int]
) -> None:
    counts, failed = asr_characters.judge(Sample(id="a", where="rows:1", text=text, language=language), heard)
    assert (counts.numerator, counts.denominator) == expected
    assert not failed
