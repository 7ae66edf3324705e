"""The morning report opened in a browser: its figures are the study's, it can be asked, and no transcript breaks it."""

import json
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import optuna
import pytest
from browser import ask, needs_browser, opened
from studies import add_ends, add_trial, new_study, rate, read, save_answers

from autoreap.candidate import FRACTION_OF_COUNT, Candidate, parameter_name
from autoreap.data.tasks import TASKS
from autoreap.evaluation import latency
from autoreap.evaluation.judging import EMPTY, NOT_A_NUMBER, RUNAWAY, UNPARSEABLE
from autoreap.formatting import metric_text, size_text
from autoreap.report import study_page
from autoreap.report.study_document import study_document
from autoreap.report.study_page import LANGUAGES, write_report
from autoreap.scores import Difference
from autoreap.search import records
from autoreap.search.constraints import STATIC
from autoreap.search.records import HeldOutScores, HeldOutTrial, ScoredModel

PAGE = Path(study_page.__file__).parent / "page"
EVIL = "</script><script>window.hacked=1</script><img/src=x/onerror=hacked=1>"
MAX_BYTES = 6_000_000


def page_file(name: str) -> str:
    """A template, script or list of words."""
    return (PAGE / name).read_text(encoding="utf-8")


def a_night() -> optuna.Study:
    study = new_study()
    for values in ((60, 0.10), (40, 0.104), (20, 0.2), (30, 0.5)):
        add_trial(study, values)
    add_ends(study)
    records.record_control(study, "random", ScoredModel({"wer": rate(0.9)}, 40 * 10**9))
    return study


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a study with answers, one of them hostile, and with scores on the report split."""
    root = tmp_path_factory.mktemp("mlruns")
    study = a_night()
    reference = f"hear {EVIL.replace(' ', '_')}"
    for name, output in (("baseline", reference), ("1", f"{EVIL} {EVIL}")):
        for file in ("outcomes.jsonl", "report.jsonl"):
            save_answers(root / "trials" / "night" / name, {f"u<b>{EVIL}": output}, reference, file)
    metrics = {"wer": rate(0.15)}
    change = {"wer": Difference(0.01, 0.005, 0.015, "worse")}
    trials = {n: HeldOutTrial(metrics, change, [1 - n] if n < 2 else []) for n in range(3)}
    records.record_held_out(study, HeldOutScores("digest", {"wer": rate(0.14)}, trials))
    path = root / "report.html"
    write_report(read(study), path, root)
    return path


def test_both_languages_have_the_same_words_with_the_same_gaps() -> None:
    words = [json.loads(page_file(f"words.{language}.json")) for language in LANGUAGES]
    gaps = [{key: sorted(re.findall(r"\{[^}]+\}", text)) for key, text in one.items()} for one in words]
    assert gaps[0] == gaps[1]


def test_every_word_that_the_scripts_ask_for_is_known() -> None:
    scripts = "".join(page_file(name) for name in ("format.js", "chart.js", "details.js", "night.js", "report.js"))
    asked = set(re.findall(r'(?:word|sentence|panel)\("([a-z][\w.-]*[\w])"', scripts + page_file("report.html")))
    asked |= set(re.findall(r'data-word(?:-\w+)?="([^"]+)"', page_file("report.html")))
    assert len(asked) > 40
    assert asked <= set(json.loads(page_file("words.en.json")))


def test_the_page_loads_nothing(page: Path) -> None:
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//|@import|url\(|\bfetch\(|\bimport\(""", page.read_text())


@needs_browser
def test_the_head_says_what_was_found_with_intervals(page: Path) -> None:
    steps = "return [...document.querySelectorAll('.lead')].map((one) => one.textContent)"
    (lead,) = ask(page, steps)
    size, unpruned = size_text(60e9), size_text(70e9)
    assert lead.startswith("No candidate is as good as the unpruned test/model within the margins, so none is")
    assert lead.endswith(f"The nearest is trial 0: {size}, 86% of the unpruned {unpruned}.")
    steps = (
        "return [...document.querySelectorAll('.checks tr')].map((row) => [...row.cells].map((one) => one.textContent))"
    )
    heading, search, report = ask(page, steps)
    assert heading == ["metric", "", "unpruned", "trial 0", "difference, paired", "margin", "verdict"]
    baseline = metric_text("wer", rate(0.1))
    assert search == ["WER", "search split", baseline, baseline, "+0.00 points [−0.50, +0.50]", "0.5", "as good"]
    own, unpruned = metric_text("wer", rate(0.15)), metric_text("wer", rate(0.14))
    assert report == ["WER", "report split", unpruned, own, "+1.00 points [+0.50, +1.50]", "0.5", "worse"]


@needs_browser
@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [(60, 0.1), (50, 0.1), (20, 0.13), (10, 0.3)],
            ["Recommended: trial 1 of test/model.", "trade-off", "trial 2"],
        ),
        ([(60, 0.3), (40, 0.31)], ["The nearest is trial 0: 60.00 GB"]),
        ([(60, 0.5), (40, 0.9)], ["The nearest is trial 0: 60.00 GB"]),
    ],
)
def test_the_head_says_what_the_rules_pick(rows: list[tuple[float, float]], said: list[str], tmp_path: Path) -> None:
    study = new_study()
    for values in rows:
        add_trial(study, values)
    write_report(read(study), tmp_path / "report.html", tmp_path)
    steps = "return [document.getElementById('head').textContent, details.textContent]"
    head, details = ask(tmp_path / "report.html", steps)
    assert all(part in head for part in said)
    picked = study_document(read(study), tmp_path)["head"]["trial"]
    assert f"autoreap materialise night --trial {picked} -o night-trial-{picked}" in head
    assert details.startswith(f"trial {picked}")


@needs_browser
def test_a_click_on_a_point_shows_that_candidate(page: Path) -> None:
    steps = """return [location.hash, details.querySelector('h3').textContent,
      details.querySelector('code').textContent, details.textContent,
      document.querySelector('tr.chosen').dataset.key]"""
    with opened(page, address="split=search") as tab:
        tab.click('.point[data-key="2"]')
        address, title, command, text, row = tab.run(steps)
        assert "trial=2" in address
        assert title.startswith("trial 2")
        assert command == "autoreap materialise night --trial 2 -o night-trial-2"
        assert (metric_text("wer", rate(0.2)) in text, row) == (True, "2")
        tab.click("#details .close")
        assert tab.run("return details.textContent") == "Choose a point or a row."


@needs_browser
def test_points_and_rows_are_reached_and_chosen_by_the_keyboard(page: Path) -> None:
    steps = "return [details.querySelector('h3').textContent.replace('×', ''), document.activeElement.dataset.key]"
    with opened(page, address="split=search&trial=2") as tab:
        tab.run("document.querySelector('#axes [name=fit]').focus()")
        tab.press("Tab")
        assert tab.run(steps) == ["trial 2", "2"], "Tab reaches one point, the chosen one"
        for key, reached in (("ArrowRight", "3"), ("ArrowRight", "random"), ("ArrowLeft", "3"), ("ArrowLeft", "2")):
            tab.press(key)
            assert tab.run(steps) == ["trial 2", reached], "from left to right"
        tab.press("ArrowRight")
        tab.press("Enter")
        assert tab.run(steps) == ["trial 3", "3"], "the focus stays when the picture is drawn anew"
        tab.run("document.querySelector('tr[data-key=\"0\"]').focus()")
        tab.press("ArrowDown")
        tab.press("Enter")
        assert tab.run(steps) == ["trial 1", "1"]


@needs_browser
def test_no_transcript_becomes_markup(page: Path) -> None:
    steps = """return [window.hacked ?? null, details.querySelectorAll('img, script').length,
      details.querySelector('article').textContent]"""
    hacked, elements, shown = ask(page, steps, address="trial=1&split=search")
    assert hacked is None
    assert elements == 0
    assert EVIL in shown


@needs_browser
def test_the_table_is_filtered_and_sorted(page: Path) -> None:
    steps = """
      const keys = () => [...document.querySelectorAll('#trials tbody tr')].map((row) => row.dataset.key);
      const set = (name, value) => { const field = document.getElementById('filters')[name]; field.value = value;
        field.dispatchEvent(new Event('input', { bubbles: true })); };
      const found = {};
      found.scored = keys();
      set('state', ''); found.all = keys();
      set('state', 'front'); found.front = keys();
      set('state', ''); set('text', 'nothing'); found.reason = keys();
      set('text', ''); document.querySelectorAll('#trials thead button')[2].click(); found.size = keys();
      document.querySelectorAll('#trials thead button')[2].click(); found.largest = keys();
      return found;
    """
    found = ask(page, steps, address="split=search")
    assert found["scored"] == ["0", "1", "2", "3"], "what has no score is folded away at first"
    assert found["all"] == [str(number) for number in range(8)]
    assert found["front"] == ["0", "1", "2"]
    assert found["reason"] == ["6"]
    assert found["size"][:4] == ["2", "3", "1", "0"]
    assert found["largest"][:4] == ["0", "1", "3", "2"], "what has no size stays last"


@needs_browser
def test_the_split_and_the_axes_can_be_changed(page: Path) -> None:
    steps = """
      const label = () => document.querySelector('.point[data-key="1"]').getAttribute('aria-label');
      const before = label();
      const [search] = document.querySelectorAll('#splits button');
      search.click();
      const field = document.getElementById('axes').x; field.value = 'size_4bit_bytes';
      field.dispatchEvent(new Event('change', { bubbles: true }));
      return [before, label(), document.querySelectorAll('.tie line').length];
    """
    size = size_text(40e9)
    report, search, bands = ask(page, steps)
    assert report == f"trial 1, {size}, WER {metric_text('wer', rate(0.15))}"
    assert search == f"trial 1, {size_text(40e9 / 3)}, WER {metric_text('wer', rate(0.104))}"
    assert bands == 2, "one between the tied points, one in the legend"


@needs_browser
def test_what_was_not_scored_is_counted_and_not_drawn(page: Path) -> None:
    steps = """return [[...document.querySelectorAll('#chart .point')].map((one) => one.dataset.key).sort(),
      document.getElementById('notes').textContent]"""
    drawn, notes = ask(page, steps, address="split=search")
    assert drawn == ["0", "1", "2", "3", "baseline", "random"]
    assert "Not drawn: pruned 1, infeasible 1, failed 1, interrupted 1." in notes


@needs_browser
def test_the_language_and_the_theme_are_switched(page: Path) -> None:
    steps = """
      const look = () => [document.documentElement.lang, document.querySelector('h2').textContent,
        getComputedStyle(document.body).backgroundColor];
      const before = look();
      document.getElementById('language').click(); document.getElementById('theme').click();
      return [before, look()];
    """
    before, after = ask(page, steps)
    assert before == ["en", "The front", "rgb(255, 255, 255)"]
    assert after == ["zh", "帕累托前沿", "rgb(20, 24, 29)"]


@needs_browser
@pytest.mark.parametrize("language", LANGUAGES)
def test_no_gap_and_no_key_is_left_on_the_page(page: Path, language: str) -> None:
    shown = ask(page, "return document.querySelector('main').innerText", address=f"trial=1&lang={language}")
    assert not re.findall(r"\{\w+\}|undefined|NaN|null|\b(?:details|night|head|front|column|state)\.[a-z]+", shown)


@needs_browser
def test_a_trial_that_the_report_split_did_not_see_is_told_of_by_the_search_split(page: Path) -> None:
    steps = "return [details.textContent, document.getElementById('notes').textContent]"
    text, notes = ask(page, steps, address="trial=3&split=report")
    assert "Scores (search split)" in text
    assert metric_text("wer", rate(0.5)) in text
    assert "Scored but not drawn: 1, " in notes


@needs_browser
@pytest.mark.parametrize(
    ("chosen", "title"), [("baseline", "unpruned"), ("random", "control random"), ("6", "trial 6")]
)
def test_what_is_no_scored_trial_can_be_chosen_too(page: Path, chosen: str, title: str) -> None:
    steps = "return [details.querySelector('h3').textContent, details.innerText]"
    found, text = ask(page, steps, address=f"trial={chosen}&split=search")
    assert found.startswith(title)
    assert "materialise" not in text
    assert ("ScoringError: <b>nothing</b> was scored" in text) == (chosen == "6")


@needs_browser
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("width", [320, 390, 768])
def test_a_narrow_screen_needs_no_sideways_scrolling(page: Path, width: int, language: str) -> None:
    steps = """
      const wide = [...document.querySelectorAll('main *')].filter((one) => !one.closest('.scroll, .command, svg')
        && one.getBoundingClientRect().right > innerWidth);
      return [document.documentElement.scrollWidth, innerWidth, wide.map((one) => one.outerHTML.slice(0, 80))]"""
    assert ask(page, steps, address=f"trial=1&lang={language}", width=width) == [width, width, []]


@needs_browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(page: Path, dark: bool) -> None:
    with opened(page, address="trial=1&split=search", dark=dark) as tab:
        number, faint = tab.run((Path(__file__).parent / "contrast.js").read_text())
    assert number > 150
    assert faint == []


@needs_browser
def test_a_preset_is_a_square_also_on_the_front(tmp_path: Path) -> None:
    study = new_study()
    for values, preset in (((60, 0.1), None), ((40, 0.104), "light"), ((50, 0.2), "medium")):
        add_trial(study, values, preset=preset)
    write_report(read(study), tmp_path / "report.html", tmp_path)
    steps = """return [...document.querySelectorAll('#chart .point')].map((one) =>
      [one.dataset.key, one.classList[1], one.querySelector('.mark').tagName])"""
    marks = {key: (kind, shape) for key, kind, shape in ask(tmp_path / "report.html", steps)}
    front, other = ("front", "circle"), ("preset", "rect")
    assert marks == {"0": front, "1": ("front", "rect"), "2": other, "baseline": ("baseline", "path")}


def test_every_metric_and_parameter_has_a_name_in_both_languages() -> None:
    metrics = {task.METRIC for task in TASKS} | {*STATIC, *latency.DIRECTIONS, "mask_seconds", "nll"}
    parameters = {
        name.rpartition(".")[2]
        for name in [*(parameter_name(field.name) for field in fields(Candidate)), *FRACTION_OF_COUNT]
    }
    reasons = {NOT_A_NUMBER, RUNAWAY, EMPTY, UNPARSEABLE}
    for language in LANGUAGES:
        words = json.loads(page_file(f"words.{language}.json"))
        wanted = {f"metric.{name}" for name in metrics} | {f"param.{name}" for name in parameters}
        assert wanted | {f"reason.{name}" for name in reasons} <= set(words)


NAMES = {"thinker", "talker", "KV", "bf16", "PED", "ANOVA", "NaN", "GB", "autoreap", "English"}


def test_nothing_is_left_in_english_in_the_chinese_words() -> None:
    words = json.loads(page_file("words.zh.json"))
    texts = {key: re.sub(r"\{[^}]+\}", "", text) for key, text in words.items()}
    english = {key: set(re.findall(r"[A-Za-z]{2,}", text)) - NAMES for key, text in texts.items()}
    assert {key: found for key, found in english.items() if found} == {}
    beside = r"[\u4e00-\u9fff][,:;()]|[,:;()][\u4e00-\u9fff]"
    half_width = [key for key, text in texts.items() if re.search(beside, text)]
    assert half_width == [], "beside Chinese characters punctuation is full-width"


@needs_browser
def test_on_paper_the_page_is_light_and_whole(page: Path) -> None:
    steps = """return [getComputedStyle(document.body).backgroundColor, details.scrollHeight - details.clientHeight,
      ['nav', '#axes', '.close'].map((one) => getComputedStyle(document.querySelector(one)).display)]"""
    with opened(page, address="trial=1&split=search&theme=dark") as tab:
        tab.print_out()
        assert tab.run(steps) == ["rgb(255, 255, 255)", 0, ["none", "none", "none"]]


@needs_browser
def test_the_head_mixes_no_splits_where_the_front_has_grown_since_it_was_confirmed(tmp_path: Path) -> None:
    study = a_night()
    metrics = {"wer": rate(0.15)}
    records.record_held_out(study, HeldOutScores("digest", metrics, {}))
    write_report(read(study), tmp_path / "report.html", tmp_path)
    text = ask(tmp_path / "report.html", "return document.getElementById('head').textContent")
    assert metric_text("wer", rate(0.1)) in text
    assert metric_text("wer", rate(0.15)) not in text


def three_objectives() -> optuna.Study:
    study = new_study({"size_bytes": "minimize", "wer": "minimize", "accuracy": "maximize"})
    for values in ((60, 0.1, 0.9), (40, 0.2, 0.8), (20, 0.15, 0.5)):
        add_trial(study, values)
    return study


def without_wer() -> optuna.Study:
    study = new_study({"size_bytes": "minimize", "accuracy": "maximize"})
    for values in ((60, 0.9), (40, 0.8)):
        add_trial(study, values)
    return study


def one_trial() -> optuna.Study:
    study = new_study()
    add_trial(study, (60, 0.0))
    return study


def no_front() -> optuna.Study:
    study = new_study(constraints=["wer <= 5%"])
    add_trial(study, (60, 0.5), violations={"wer <= 5%": 9.0})
    return study


def long_night() -> optuna.Study:
    study = new_study()
    for number in range(400):
        add_trial(study, (10 + number / 10, 0.1 + (number * 7919 % 500) / 1000))
        for _ in range(2):
            pruned = {"reason": "dominated by trial 0", "seconds": 7.5, "num_scored": 4, "num_utterances": 9}
            records.record_pruned(study, study.ask(), pruned)
    return study


def nothing_scored() -> optuna.Study:
    study = new_study()
    add_ends(study)
    return study


@needs_browser
@pytest.mark.parametrize(
    "made",
    [three_objectives, without_wer, one_trial, no_front, long_night, nothing_scored],
    ids=lambda made: made.__name__,
)
def test_a_study_of_any_shape_gives_a_good_page(made: Callable[[], optuna.Study], tmp_path: Path) -> None:
    study = made()
    write_report(read(study), tmp_path / "report.html", tmp_path)
    assert (tmp_path / "report.html").stat().st_size < MAX_BYTES
    steps = """const state = document.getElementById('filters').state; state.value = '';
      state.dispatchEvent(new Event('input', { bubbles: true }));
      return [document.querySelectorAll('#trials tbody tr').length, document.querySelectorAll('.panel').length,
      document.querySelectorAll('#chart .point').length, document.querySelector('main').innerText]"""
    found: list[Any] = ask(tmp_path / "report.html", steps, address="trial=0")
    num_rows, num_panels, num_points, text = found
    trials = study.get_trials(deepcopy=False)
    scored = sum(trial.state == optuna.trial.TrialState.COMPLETE for trial in trials)
    assert (num_rows, num_points) == (min(len(trials), 1000), scored + 1)
    assert 2 <= num_panels <= 5, "what has nothing to say is left out"
    assert not re.findall(r"undefined|NaN", text)
    if made in (no_front, nothing_scored):
        assert "so there is no front" in text
