"""Templates say what lm-eval's say, and none fills the memory, hangs or reaches Python's insides."""

import time

import pytest

from autoreap.data.row_templates import check_template, columns_of_template, fill_in

ROW = {"text": "word " * 1000, "choices": ["a", "b"], "answer": 1, "passage": {"title": "T"}, "n": 10**7, "x": "ab"}


def _filled_in(template: str) -> str:
    check_template(template)
    return fill_in(template, ROW)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{choices[answer]}}", "b"),
        ("{{ passage.title }}: {{ x.strip().upper() }}", "T: AB"),
        ("{% for c in choices %}{{ loop.index }}. {{ c }}\n{% endfor %}", "1. a\n2. b\n"),
        ("{{ choices | map('upper') | join(', ') }}", "A, B"),
        ("{{ ['A', 'B'][answer] ~ '.' }}{% if n > 3 %}!{% else %}?{% endif %}", "B.!"),
        ("{{ x|replace('a', 'c') }}{{ n * 2 + 7 % 4 }}", "cb20000003"),
        ("{% for i in range(3) %}{{ i }}{% endfor %}", "012"),
        ("{{ n | int }}{{ n | round(1) }}", "1000000010000000"),
    ],
)
def test_what_prompts_need_is_there(template: str, expected: str) -> None:
    assert _filled_in(template) == expected


def test_functions_are_no_columns() -> None:
    assert columns_of_template("{{ text }}{% for i in range(3) %}{{ choices[i] }}{% endfor %}") == {"text", "choices"}


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 10 ** 9 }}",
        "{{ 9 ** 9 ** 9 ** 9 }}",
        "{% set x = x ~ x %}{{ x }}",
        "{% for i in range(9) %}{% for j in range(9) %}{% endfor %}{% endfor %}",
        "{% macro f(x) %}{{ f(x) }}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{% include 'x' %}",
        "{{ text.__class__.__mro__ }}",
        "{{ x|center(10) }}",
        "{{ lipsum(1000000) }}",
        "{{ " + "(" * 5000,
        "{{ " + "1" * 5000 + " }}",
        "{% if x %}" * 200 + "{% endif %}" * 200,
        "{{ x }}" * 5000,
    ],
)
def test_what_no_prompt_needs_is_refused_when_it_is_read(template: str) -> None:
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"template|characters"):
        _filled_in(template)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 1000000000 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '{:>1000000000}'.format(1) }}",
        "{{ x.ljust(1000000000) }}",
        "{{ text|replace('o', text) }}",
        "{{ text.replace('o', text) }}",
        "{{ text.join(text) }}",
        "{{ text|map('upper')|join(text) }}",
        "{{ [1]|slice(1000000000)|list }}",
        "{{ 1.5|round(1000000000, 'floor') }}",
        "{% for i in range(1000000000) %}{{ i }}{% endfor %}",
        "{% for a in text %}{{ text }}{% endfor %}",
        "{% for a in text %}{{ text.replace('word', 'deed')|length }}{{ text.split()|sort|length }}{% endfor %}" * 20,
        "{{ x['__class__'] }}",
        "{{ x|attr('__class__') }}",
    ],
)
@pytest.mark.slow
def test_what_multiplies_is_refused_when_it_is_filled_in(template: str) -> None:
    began = time.monotonic()
    with pytest.raises(ValueError, match="template"):
        _filled_in(template)
    assert time.monotonic() - began < 4
