import pytest

from autoreap.data.languages import language_mistake, primary_language


@pytest.mark.parametrize("tag", ["en", "EN", "zh-CN", "cmn_hans_cn", "yue", "ast", "kea_cv", "iw", "in", "rm-sursilv"])
def test_codes_of_languages_are_known(tag: str) -> None:
    assert language_mistake(tag) is None


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        *(("cn", "write zh"), ("JP", "write ja"), ("kr", "write ko, or kau for Kanuri"), ("cn-hans", "write zh")),
        *(("xx", "ISO 639"), ("zzz", "ISO 639"), ("English", "such as en"), ("", "such as en"), (7, "such as en")),
    ],
)
def test_what_is_no_language_is_refused_with_what_to_write(tag: object, message: str) -> None:
    assert message in (language_mistake(tag) or "")


@pytest.mark.parametrize(
    ("tag", "code"),
    [
        *((None, "en"), ("eng", "en"), ("zho", "zh"), ("chi", "zh"), ("cmn_hans_cn", "zh"), ("jpn", "ja")),
        *(("tur", "tr"), ("az-AZ", "az"), ("azj", "az"), ("pes", "fa"), ("kea", "kea"), ("yue_hant_hk", "yue")),
    ],
)
def test_a_language_has_one_code(tag: str | None, code: str) -> None:
    assert primary_language(tag) == code
