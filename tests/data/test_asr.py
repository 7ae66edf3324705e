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


@pytest.mark.parametrize(
    ("language", "text", "heard"),
    [
        ("en", "I don't, we're, it's", "I don’t, weʼre, it＇s"),
        ("en", "I don't", "I do not"),
        ("en", "I don’t", "I do not"),
        ("en", "I don`t, it´s", "I do not, it is"),
        ("en", "he said sorry", "he said ‘sorry’"),
        ("en", "Yes, I do", "yes… I do..."),
        ("en", "twenty-one cars", "twenty–one cars"),
        ("en", "I don't (laughs) know", "Ｉ ｄｏｎ＇ｔ （ｌａｕｇｈｓ） ｋｎｏｗ"),
        ("en", "cafe\u0301", "café"),
        ("fr", "l'homme", "l’homme"),
        ("fr", "l'homme", "l´homme"),
        ("uk", "м'ята", "мʼята"),
        ("de", "bitte", "bitte [Lachen]"),
        ("de", "bitte", "bitte ［Lachen］（laut）"),
        ("fr", "c\u0327a va", "ça va"),
        ("ko", "안녕", "\u110b\u1161\u11ab\u1102\u1167\u11bc"),
        ("tr", "ISPARTA'DA İYİ IŞIK", "ısparta'da iyi ışık"),
        ("az", "I\u0307YI", "iyı"),
        ("de", "İstanbul", "istanbul"),
        ("el", "ΟΔΟΣ ΣΟΦΟΣ", "οδος σοφος"),
        ("el", "οδοσ", "οδος"),
        ("ar", "مـــرحبا ١٢", "مرحبا 12"),
        ("hi", "२०२४ में", "2024 में"),
        ("fa", "\u0643\u062a\u0627\u0628\u064a", "\u06a9\u062a\u0627\u0628\u06cc"),
        ("ro", "și țară", "şi ţară"),
        ("ml", "അവന്\u200d", "അവൻ"),
        ("ja", "ガーデン", "ｶﾞｰﾃﾞﾝ"),
    ],
)
def test_what_looks_or_sounds_the_same_is_no_error(language: str, text: str, heard: str) -> None:
    assert errors(text, heard, language)[0] == 0
    assert errors(heard, text, language)[0] == 0


@pytest.mark.parametrize(
    "invisible", ["\u200b", "\ufeff", "\xad", "\u2060", "\u200e", "\u202b", "\x00", "\ufe0f", "\u034f"]
)
@pytest.mark.parametrize("language", ["en", "de", "zh", "th", "fa", "hi"])
def test_invisible_characters_are_no_errors(invisible: str, language: str) -> None:
    assert errors("today", f"{invisible}to{invisible}day{invisible}", language) == (0, 1)
    assert errors("今天", f"今{invisible}天", language)[0] == 0


@pytest.mark.parametrize(
    ("language", "text", "heard", "num_errors"),
    [
        ("fa", "می\u200cخواهم", "میخواهم", 1),  # the joiner parts what would be joined
        ("fa", "آزاد\u200cراه", "آزادراه", 0),  # dal is joined to nothing after it
        ("fa", "کتاب\u200c", "کتاب", 0),
        ("hi", "क\u094d\u200cष", "क\u094dष", 1),  # the virama is seen
        ("hi", "न\u200cमस्ते", "नमस्ते", 0),
        ("si", "ශ\u0dca\u200dර\u0dd3", "ශ\u0dcaර\u0dd3", 1),
        ("en", "to\u200dday", "today", 0),
        ("tr", "ılık", "ilik", 1),
        ("en", "IT", "it", 0),
        ("de", "Schön", "schon", 1),
    ],
)
def test_what_carries_meaning_is_kept(language: str, text: str, heard: str, num_errors: int) -> None:
    assert errors(text, heard, language)[0] == num_errors


@pytest.mark.parametrize(
    ("text", "num_units"),
    [
        ("ສະບາຍດີ", 7),  # Lao
        ("សួស្តី", 6),  # Khmer
        ("မင်္ဂလာပါ", 9),  # Burmese
        ("བཀྲ་ཤིས", 6),  # Tibetan
        ("ꦱꦸꦒꦼꦁ", 5),  # Javanese
        ("今日は", 3),
        ("ㄅㄆ", 2),
    ],
)
@pytest.mark.parametrize("language", ["und", "lo", "khm", "my-MM", "bod", "jv", "ja", "cmn_hans_cn", "ko"])
def test_scripts_without_spaces_are_counted_in_characters_in_any_language(
    text: str, num_units: int, language: str
) -> None:
    assert errors(text, "", language) == (num_units, num_units)


def test_scripts_with_spaces_are_counted_in_words_in_any_language() -> None:
    assert errors("我用 Привет 안녕", "", "zh") == (4, 4)
