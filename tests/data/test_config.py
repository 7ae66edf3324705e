from dataclasses import fields
from pathlib import Path

import pytest
from builders import wav_bytes
from pages import ROOT, block

from autoreap.data.calibration_config import CalibrationConfig, CalibrationSet, calibration_of, load_calibration
from autoreap.data.columns import ColumnRef, Constant
from autoreap.data.conditions import Condition
from autoreap.data.evals_config import EvalsConfig, TaskConfig, load_evals, metric_name
from autoreap.errors import InputError
from autoreap.search.parameters import Range
from autoreap.search.space import SpaceConfig, load_space

SPACE = """\
calibration:
  audio: audio.jsonl
evals: evals.yaml
parameters:
  retention: 0.5
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "audio.jsonl").touch()
    return tmp_path


def space(folder: Path, text: str) -> SpaceConfig:
    (folder / "space.yaml").write_text(text)
    return load_space(folder / "space.yaml")


def evals(folder: Path, text: str) -> EvalsConfig:
    (folder / "evals.yaml").write_text(text)
    return load_evals(folder / "evals.yaml")


@pytest.mark.parametrize("path", sorted((ROOT / "search_spaces").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_search_space_loads_and_its_evals_too(path: Path) -> None:
    config = load_space(path)
    assert config.name == path.stem
    assert load_evals(config.evals).splits["search"]


def test_the_example_of_the_documentation_loads_and_shows_every_key(tmp_path: Path) -> None:
    text = block("docs/search-spaces.md", "space")
    for name in ("speech", "video", "mixed"):
        (tmp_path / f"{name}.jsonl").touch()
    config = space(tmp_path, text)
    told = {line.partition(":")[0] for line in text.splitlines() if not line.startswith(" ")}
    named = {"path", "name", "conditions", "sampler_arguments"}  # not keys of a file
    assert {field.name for field in fields(SpaceConfig)} - named == told
    assert config.conditions.keys() == {"lambda", "beta"}


@pytest.mark.parametrize("path", sorted((ROOT / "evals").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_evals_file_loads_with_tasks_to_search_and_to_report_on(path: Path) -> None:
    config = load_evals(path)
    assert config.splits["search"]
    assert config.splits["report"]


def test_a_space_is_read_with_paths_beside_it_and_defaults_for_the_rest(folder: Path) -> None:
    config = space(folder, SPACE)
    assert config == SpaceConfig(
        path=folder / "space.yaml",
        name="space",
        calibration=CalibrationConfig(audio=(CalibrationSet(str(folder / "audio.jsonl")),)),
        evals=folder / "evals.yaml",
        parameters={"retention": 0.5},
        objectives={"size_bytes": "minimize", "wer": "minimize"},
    )
    assert (config.trials, config.hours, config.presets) == (100, None, ("light", "medium", "aggressive"))


def test_every_form_of_a_parameter_is_read(folder: Path) -> None:
    text = SPACE + (
        "  lambda: {low: 0, high: 4.0}\n"
        "  beta: {low: 0.0, high: 2.0, step: 0.5}\n"
        "  layers_cut: {low: 0, high: 12}\n"
        "  talker.retention: {low: 0.5, high: 1.0}\n"
        "  saliency: [affinity, reap]\n"
        "  layer_selection: block\n"
        "  strip_vision: true\n"
        "objectives: {size_bytes: minimise, accuracy: maximise}\n"
        "presets: [medium]\nhours: 0.5\nmaterialise: knee\nsampler: nsgaii\n"
    )
    config = space(folder, text)
    assert config.parameters == {
        "retention": 0.5,
        "lambda": Range(0, 4.0),
        "beta": Range(0.0, 2.0, 0.5),
        "layers_cut": Range(0, 12, 1),
        "talker.retention": Range(0.5, 1.0),
        "saliency": ("affinity", "reap"),
        "layer_selection": "block",
        "strip_vision": True,
    }
    assert config.objectives == {"size_bytes": "minimize", "accuracy": "maximize"}
    assert (config.presets, config.hours, config.materialise, config.sampler) == (
        ("medium",),
        0.5,
        "knee",
        "NSGAIISampler",
    )


def test_every_form_of_what_a_search_is_told_is_read(folder: Path) -> None:
    text = SPACE.replace("  retention: 0.5\n", "") + (
        "  experts: {low: 32, high: 128, step: 8}\n"
        "  talker.experts: [64, 128]\n"
        "  saliency: [affinity, reap]\n"
        "  lambda: {low: 0.1, high: 10, log: true, when: {saliency: affinity}}\n"
        "  beta: {choices: [0, 1], when: {saliency: affinity, talker.experts: [64, 128]}}\n"
        "  seed: {value: 3, when: {experts: 32}}\n"
        "constraints:\n"
        "  - size <= 20 GB\n"
        "  - wer  <= baseline + 0.5 points\n"
        "  - size <= 20 GB\n"
        "controls: [uniform-reap, random]\n"
        "sampler: {name: tpe, multivariate: true}\n"
    )
    config = space(folder, text)
    assert config.parameters == {
        "experts": Range(32, 128, 8),
        "talker.experts": (64, 128),
        "saliency": ("affinity", "reap"),
        "lambda": Range(0.1, 10, log=True),
        "beta": (0, 1),
        "seed": 3,
    }
    assert config.conditions == {
        "lambda": {"saliency": ("affinity",)},
        "beta": {"saliency": ("affinity",), "talker.experts": (64, 128)},
        "seed": {"experts": (32,)},
    }
    assert [each.text for each in config.constraints] == ["size <= 20 GB", "wer <= baseline + 0.5 points"]
    assert config.controls == ("uniform-reap", "random")
    assert (config.sampler, config.sampler_arguments) == ("TPESampler", {"multivariate": True})


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("  retention: 0.5\n  experts: 64\n", "6: parameters.experts: counts what retention gives as a fraction"),
        ("  saliency: [reap]\n  lambda: {value: 2, when: {saliency: affinity}}\n", "saliency is never 'affinity' here"),
        ("  seed: {low: 0, high: 3}\n  beta: {value: 2, when: {seed: [3, 4]}}\n", "seed is never 4 here"),
        ("  saliency: reap\n  lambda: {value: 2, when: {saliency: affinity}}\n", "saliency is never 'affinity' here"),
    ],
)
def test_parameters_that_contradict_one_another_are_refused(lines: str, message: str, folder: Path) -> None:
    with pytest.raises(InputError, match=message):
        space(folder, SPACE.replace("  retention: 0.5\n", lines))


def test_all_mistakes_of_a_space_are_reported_at_once_each_with_its_line(folder: Path) -> None:
    text = """\
calibration:
  audio: gone.jsonl
  smell: audio.jsonl
evals: 7
parameters:
  retention: {low: 0, high: 1}
  lamda: 1.0
  beta:
    low: 2.0
    high: 1.0
  layers_cut: 1.5
  saliency: [affinity, magic]
  strip_vision: maybe
objectives:
  wer: downwards
trials: 0
hours: -1
seed: one
sampler: guess
presets: [heavy]
materialise: largest
colour: red
controls: [uniform]
constraints:
  - size <= 20
  - wer <= 5%
  - 7
"""
    with pytest.raises(InputError) as failure:
        space(folder, text)
    found = [line.removeprefix(f"{folder / 'space.yaml'}:") for line in str(failure.value).splitlines()]
    expected = {
        2: "calibration.audio: no such file",
        3: "calibration.smell: unknown key; known: audio, video, mixed",
        4: "evals: must be a string, got 7",
        6: "parameters.retention: must be above 0, got 0",
        7: "parameters.lamda: unknown key; known: retention",
        8: "parameters.beta: low must not exceed high",
        11: "parameters.layers_cut: must be an integer",
        12: "parameters.saliency: must be one of affinity, reap, frequency, random",
        13: "parameters.strip_vision: must be true or false, got 'maybe'",
        15: "objectives.wer: must be minimise or maximise, got 'downwards'",
        16: "trials: must be above 0, got 0",
        17: "hours: must be above 0, got -1",
        18: "seed: must be an integer, got 'one'",
        19: "sampler: must be one of tpe",
        20: "presets.0: must be one of light, medium, aggressive, got 'heavy'",
        21: "materialise: must be one of safe, knee, or false, got 'largest'",
        22: "colour: unknown key; known: calibration",
        23: "controls.0: must be one of random, uniform-reap, random-healed, got 'uniform'",
        25: "constraints.0: something is missing after 'size <= 20' of 'size <= 20': expected B or kB",
        27: "constraints.2: '7' is not understood at the start of '7': expected a metric",
    }
    lines = [int(message.split(":")[0]) for message in found]
    assert lines == list(expected)
    for message, (line, start) in zip(found, expected.items(), strict=True):
        assert message.startswith(f"{line}: {start}")


@pytest.mark.parametrize("missing", ["calibration", "evals", "parameters"])
@pytest.mark.parametrize("blank", [False, True], ids=["absent", "blank"])
def test_a_key_that_every_space_needs_is_missed(missing: str, blank: bool, folder: Path) -> None:
    sections = {"calibration": "{audio: audio.jsonl}", "evals": "evals.yaml", "parameters": "{retention: 0.5}"}
    sections[missing] = ""
    text = "".join(f"{key}: {value}\n" for key, value in sections.items() if blank or value)
    with pytest.raises(InputError, match=f"key {missing} is missing"):
        space(folder, text)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("  retention: 0", "must be above 0, got 0"),
        ("  retention: true", "must be a number, got True"),
        ("  retention: {high: 1.0}", "a range has low, high"),
        ("  retention: {low: 0.5, high: 1.0, stride: 1}", "a range has low, high"),
        ("  retention: {low: 0.5, high: 1.0, step: 0}", "step must be a number above 0"),
        ("  beta: .nan", "must be a finite number"),
        ("  seed: {low: 0, high: 1.5}", "must be an integer"),
        ("  strip_vision: [true, 3]", "must be true or false"),
        ("  saliency:", "must be a string, got None"),
        ("objectives: {wer: [minimise]}", "must be minimise or maximise"),
        ("objectives: {}", "must map metrics"),
        ("presets: light", "presets: must be a list, got 'light'"),
        ("constraints: size <= 20 GB", "must be a list such as"),
        ("sampler: [tpe]", "must be one of tpe, random"),
        ("sampler: {multivariate: true}", "must be one of tpe, random"),
        ("  saliency: {low: affinity, high: reap}", "has no order; list its choices"),
        ("  lambda: {low: 0, high: 4, log: true}", "on a log scale low must be above 0, and there is no step"),
        ("  lambda: {low: 1, high: 4, step: 1, log: true}", "on a log scale low must be above 0, and there is no step"),
        ("  lambda: {low: 1, high: 4, log: 1}", "log must be true or false"),
        ("  lambda: {choices: 3}", "a range has low, high"),
        ("  experts: 0.5", "must be an integer above 0, got 0.5"),
        ("  experts: {low: 0, high: 64}", "must be an integer above 0, got 0"),
        ("  experts: {low: 8, high: 64, step: 0.5}", "step must be an integer above 0"),
        ("  lambda: {value: 2, when: affinity}", "must map a parameter to its value"),
        ("  lambda: {value: 2, when: {saliency: affinity}}", "lambda.when.saliency: must be a parameter listed above"),
        ("trials: true", "trials: must be an integer, got True"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_its_line(line: str, message: str, folder: Path) -> None:
    start = SPACE.replace("  retention: 0.5\n", "") if line.startswith("  ") else SPACE
    with pytest.raises(InputError, match=rf"space\.yaml:{start.count(chr(10)) + 1}: .*{message}"):
        space(folder, start + line + "\n")


def test_a_key_that_is_there_twice_is_refused(folder: Path) -> None:
    text = "calibration: {audio: a.jsonl}\nevals: evals.yaml\ntrials: 3\nparameters: {retention: 0.5}\ntrials: 5\n"
    with pytest.raises(InputError, match=r"space\.yaml:5: trials: is there twice; leave one out"):
        space(folder, text)


@pytest.mark.parametrize("text", ["", "- a\n", "a: [\n", "a: !unknown 3\n", "seed: 2024-13-45\n", "{a: 1}: 2\n"])
def test_what_is_not_a_mapping_in_yaml_is_refused_by_name(text: str, folder: Path) -> None:
    for read in (space, evals):
        with pytest.raises(InputError, match=r"(space|evals)\.yaml:"):
            read(folder, text)
    for load in (load_space, load_evals):
        with pytest.raises(InputError, match="no such file"):
            load(folder / "none.yaml")
        with pytest.raises(InputError, match=str(folder)):
            load(folder)


def test_tasks_are_read_with_their_split_and_order(folder: Path) -> None:
    config = evals(
        folder,
        "search:\n"
        "  - {task: asr, dataset_path: a.jsonl, limit: 3}\n"
        "  - {task: audio_qa, dataset_path: org/name, dataset_name: en,\n"
        '     columns: {text: sentence}, doc_to_text: "{choices}"}\n'
        "report:\n"
        "  - {task: asr, label: noisy, dataset_path: b.jsonl, test_split: validation, max_new_tokens: 9}\n",
    )
    assert config.splits == {
        "search": (
            TaskConfig("asr", "", "a.jsonl", limit=3),
            TaskConfig("audio_qa", "", "org/name", "en", columns={"text": "sentence"}, doc_to_text="{choices}"),
        ),
        "report": (TaskConfig("asr", "noisy", "b.jsonl", test_split="validation", max_new_tokens=9),),
    }


def test_all_mistakes_of_an_evals_file_are_reported_at_once_each_with_its_line(folder: Path) -> None:
    text = """\
search:
  - task: sing
    dataset_path: a.jsonl
  - task: asr
    dataset_path:
  - asr
  - {task: asr, dataset_path: a.jsonl, limit: 0}
  - task: asr
    dataset_path: b.jsonl
    columns: [text]
    doc_to_text: "{answer}"
report: {}
train: []
"""
    with pytest.raises(InputError) as failure:
        evals(folder, text)
    found = [line.removeprefix(f"{folder / 'evals.yaml'}:") for line in str(failure.value).splitlines()]
    expected = [
        "2: search.0.task: must be one of asr, audio_qa, got 'sing'",
        "4: search.1: key dataset_path is missing",
        "6: search.2: must be a mapping",
        "7: search.3.limit: must be above 0, got 0",
        "7: search.3: a second task with wer needs a label of its own",
        "8: search.4: a second task with wer needs a label of its own",
        "10: search.4.columns: must be a mapping, got ['text']",
        "11: search.4.doc_to_text: may use {question}, {choices} and {lettered} alone",
        "12: report: must be a list, got {}",
        "13: train: unknown key; known: search, report",
    ]
    assert len(found) == len(expected)
    for message, start in zip(found, expected, strict=True):
        assert message.startswith(start)


LM_EVAL = """\
search:
  - task: audio_qa
    label: mmau
    dataset_path: org/name
    test_split: dev
    language: en
    columns: {choices: [A, B], audio: speech}
    doc_to_text: "Listen. {{question}}"
    doc_to_target: "{{answer}}"
    generation_kwargs: {max_gen_toks: 12, do_sample: false, temperature: 0.0}
    metric_list: [{metric: accuracy, aggregation: mean, higher_is_better: true}]
    metadata: {version: 1.0}
  - task: asr
    dataset_path: a.jsonl
    doc_to_target: sentence
    metric_list: [{metric: cer}]
  - task: audio_qa
    dataset_path: b.jsonl
    doc_to_choice: ["yes", "{{other}}"]
"""


def test_a_task_in_the_form_of_lm_eval_is_read(folder: Path) -> None:
    columns: dict[str, ColumnRef] = {"choices": ("A", "B"), "audio": "speech", "language": Constant("en")}
    columns |= {"question": "Listen. {{question}}", "answer": "{{answer}}"}
    listening = TaskConfig("audio_qa", "mmau", "org/name", None, "dev", columns, "{question}", 12, version="1.0")
    assert evals(folder, LM_EVAL).splits["search"] == (
        listening,
        TaskConfig("asr", "", "a.jsonl", columns={"text": "sentence"}, metric="cer"),
        TaskConfig("audio_qa", "", "b.jsonl", columns={"choices": (Constant("yes"), "{{other}}")}),
    )


def test_a_metric_of_metric_list_is_named_and_may_stand_beside_the_usual_one(folder: Path) -> None:
    rows = "{task: asr, dataset_path: a.jsonl"
    tasks = evals(folder, f"search:\n  - {rows}}}\n  - {rows}, metric_list: [{{metric: cer}}]}}\n").splits["search"]
    assert [metric_name(task) for task in tasks] == ["wer", "cer"]
    usual = evals(folder, f"search:\n  - {rows}, metric_list: [{{metric: wer, aggregation: wer}}]}}\n").splits["search"]
    assert usual == tasks[:1]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("generation_kwargs: {do_sample: true}", "generation_kwargs.do_sample: must be false .*scoring is greedy"),
        ("generation_kwargs: {temperature: 0.7}", "generation_kwargs.temperature: must be 0 .*scoring is greedy"),
        ("generation_kwargs: {until: ['.']}", "generation_kwargs.until: not supported: an answer ends where"),
        ("generation_kwargs: {max_tokens: 3}", "generation_kwargs.max_tokens: unknown key; known: max_gen_toks"),
        ("generation_kwargs: {max_gen_toks: 0}", "generation_kwargs.max_gen_toks: must be above 0, got 0"),
        ("generation_kwargs: 12", "generation_kwargs: must be a mapping; known keys: max_gen_toks, .*, got 12"),
        ("generation_kwargs: {max_gen_toks: 3}, max_new_tokens: 4", "generation_kwargs: .*is given twice"),
        ("metric_list: [{metric: acc}]", "metric_list.0.metric: must be one of wer, cer, got 'acc'"),
        ("metric_list: [{metric: wer}, {metric: cer}]", "metric_list: must be a list of one mapping"),
        ("metric_list: [{aggregation: mean}]", "metric_list.0: key metric is missing"),
        (
            "metric_list: [{metric: wer, aggregation: mean}]",
            "metric_list.0.aggregation: must be one of wer, got",
        ),
        ("metric_list: [{metric: wer, higher_is_better: true}]", "higher_is_better: must be false for wer"),
        ("metric_list: [{metric: wer, ignore_case: true}]", "metric_list.0.ignore_case: unknown key; known: metric"),
        ("metadata: {author: me}", "metadata.author: unknown key; known: version"),
        ("metadata: 1.0", "metadata: must be a mapping; known keys: version, got 1.0"),
        ("language: English", "language: must be the code of a language"),
        ("language: en, columns: {language: locale}", "language: columns maps language too"),
        ("doc_to_target: said, columns: {text: sentence}", "doc_to_target: columns maps text too"),
        ("columns: {sentence: text}", "columns.sentence: unknown key; known: id, audio"),
        ("columns: {text: 3}", "columns.text: must be a column or a template of columns, got 3"),
        ("columns: {text: '{{a'}", "columns.text: is no template .*, got"),
        ("doc_to_text: '{{question'", "doc_to_text: is no template"),
        (r'doc_to_text: "x \ud83d"', "doc_to_text: holds half a character"),
        ("language: cn", "language: must be the code of a language, not of a country: write zh, got 'cn'"),
        ("language: no", r'language: must be the code of a language.*Norwegian in quotes: "no"'),
        ("doc_to_choice: [yes, no]", r"doc_to_choice: .*yes and no in quotes.*got \[True, False\]"),
        ("num_fewshot: 5", "num_fewshot: this key of lm-eval is not supported: a prompt holds no examples"),
        ("output_type: generate_until", "output_type: this key of lm-eval is not supported: answers are always"),
        ("process_docs: x", "process_docs: this key of lm-eval is not supported: map columns instead"),
        ("validation_split: x", "validation_split: this key of lm-eval is not supported: test_split names"),
    ],
)
def test_what_a_task_can_not_do_is_refused_with_its_line_and_what_to_do(keys: str, message: str, folder: Path) -> None:
    text = f"search:\n  - {{task: asr, dataset_path: a.jsonl}}\n  - {{task: asr, label: b, dataset_path: b, {keys}}}\n"
    with pytest.raises(InputError, match=rf"^\S*evals\.yaml:3: search\.1\S*[.:] ?{message}"):
        evals(folder, text)


def test_a_file_that_is_one_task_is_told_where_a_task_goes(folder: Path) -> None:
    with pytest.raises(InputError, match=r"evals\.yaml: is one task; put it in the list of a split"):
        evals(folder, "task: asr\ndataset_path: a.jsonl\n")


@pytest.mark.parametrize("text", ["report: []\n", "search: []\n", "search:\n"])
def test_an_evals_file_without_anything_to_search_on_is_refused(text: str, folder: Path) -> None:
    with pytest.raises(InputError, match="search needs at least one task"):
        evals(folder, text)


SETS = """\
audio:
  - audio.jsonl
  - dataset_path: owner/na.me
    dataset_name: en
    split: validation
    columns: {audio: speech, text: sentence}
    weight: 2
    limit: 100
  - {dataset_path: hub-like, limit: 3}
video: {dataset_path: audio.jsonl, weight: 0.5}
mixed: owner/name
max_unreadable: 0.05
tokens: answer
gates: raw
"""


def expected_sets(folder: Path) -> CalibrationConfig:
    (folder / "hub-like").mkdir(exist_ok=True)
    rows = str(folder / "audio.jsonl")
    columns = {"audio": "speech", "text": "sentence"}
    named = CalibrationSet("owner/na.me", "en", "validation", columns, weight=2, limit=100)
    return CalibrationConfig(
        audio=(CalibrationSet(rows), named, CalibrationSet(str(folder / "hub-like"), limit=3)),
        video=(CalibrationSet(rows, weight=0.5),),
        mixed=(CalibrationSet("owner/name"),),
        max_unreadable=0.05,
        tokens="answer",
        gates="raw",
    )


def test_every_form_of_a_calibration_set_is_read_from_a_space_and_from_a_file_of_its_own(folder: Path) -> None:
    expected = expected_sets(folder)
    (folder / "sets.yaml").write_text(SETS)
    assert load_calibration(folder / "sets.yaml") == expected
    indented = "".join(f"  {line}\n" for line in SETS.splitlines())
    text = f"calibration:\n{indented}" + SPACE.partition("audio.jsonl\n")[2]
    assert space(folder, text).calibration == expected
    assert load_calibration(folder / "space.yaml") == expected


def test_all_mistakes_of_calibration_sets_are_reported_at_once_each_with_its_line(folder: Path) -> None:
    text = """\
audio:
  - gone.jsonl
  - dataset_path: ../gone/rows.txt
    weight: 0
    limit: none
  - dataset_path: audio.jsonl
    split: train
  - weight: 2
  - dataset_path: owner/name
    columns: [text]
    colour: red
    weight: .inf
  - 7
video: []
max_unreadable: 2
smell: audio.jsonl
tokens: question
gates: [raw]
"""
    (folder / "sets.yaml").write_text(text)
    with pytest.raises(InputError) as failure:
        load_calibration(folder / "sets.yaml")
    found = [line.removeprefix(f"{folder / 'sets.yaml'}:") for line in str(failure.value).splitlines()]
    expected = [
        "2: audio.0: no such file: ",
        "3: audio.1.dataset_path: no such file: ",
        "4: audio.1.weight: must be above 0, got 0",
        "5: audio.1.limit: must be an integer, got 'none'",
        "7: audio.2.split: is for a data set of the hub",
        "8: audio.3: key dataset_path is missing",
        "10: audio.4.columns: must be a mapping, got ['text']",
        "11: audio.4.colour: unknown key; known: dataset_path, dataset_name, split, columns, weight, limit",
        "12: audio.4.weight: must be a finite number, got inf",
        "13: audio.5: must be a JSONL file, or a mapping with dataset_path; known keys: ",
        "14: video: needs at least one data set",
        "15: max_unreadable: must be at most 1, got 2",
        "16: smell: unknown key; known: audio, video, mixed, max_unreadable, tokens, gates",
        "17: tokens: must be one of prompt, answer, both, got 'question'",
        "18: gates: must be a string, got ['raw']",
    ]
    assert len(found) == len(expected), found
    for message, start in zip(found, expected, strict=True):
        assert message.startswith(start)


@pytest.mark.parametrize("section", ["", "audio.jsonl", "[audio.jsonl]", "{video: audio.jsonl}"])
def test_a_space_whose_calibration_has_no_audio_is_refused(section: str, folder: Path) -> None:
    text = SPACE.replace("\n  audio: audio.jsonl", f" {section}")
    with pytest.raises(InputError, match=r"space\.yaml:1: (calibration: )?(key|must be a mapping)"):
        space(folder, text)


def test_the_first_rows_of_each_set_are_taken_whichever_bound_is_lower(folder: Path) -> None:
    config = expected_sets(folder)
    limits = {modality: [each.limit for each in sets] for modality, sets in config.limited(50).sets.items()}
    assert limits == {"audio": [50, 50, 3], "video": [50], "mixed": [50]}
    assert config.limited(None) == config


def test_the_sets_of_a_file_and_of_the_options_are_taken_together(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "sets.yaml").write_text("video: audio.jsonl\nmax_unreadable: 0.2\ntokens: prompt\ngates: raw\n")
    named = {"audio": [("audio.jsonl", 3.0), ("owner/name", 1.0)], "video": [("audio.jsonl", 1.0)], "mixed": []}
    config = calibration_of(folder / "sets.yaml", named)
    assert config == CalibrationConfig(
        video=(CalibrationSet(str(folder / "audio.jsonl")), CalibrationSet("audio.jsonl")),
        audio=(CalibrationSet("audio.jsonl", weight=3.0), CalibrationSet("owner/name")),
        max_unreadable=0.2,
        tokens="prompt",
        gates="raw",
    )
    assert calibration_of(folder / "sets.yaml", named, max_unreadable=None, tokens=None, gates=None) == config
    given = calibration_of(folder / "sets.yaml", named, max_unreadable=0.0, tokens="both", gates="normalised")
    assert (given.max_unreadable, given.tokens, given.gates) == (0, "both", "normalised")
    default = calibration_of(None, named)
    assert (default.max_unreadable, default.tokens, default.gates) == (0.01, "both", "normalised")
    with pytest.raises(InputError, match=r"--mixed: no such file: gone\.jsonl"):
        calibration_of(None, {**named, "mixed": [("gone.jsonl", 1.0)]})
    with pytest.raises(InputError, match="--audio: calibration needs audio data"):
        calibration_of(None, {})
    with pytest.raises(InputError, match=r"sets\.yaml: calibration needs audio data"):
        calibration_of(folder / "sets.yaml", {})


def test_a_condition_is_read_with_its_recording_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "cabin.wav").write_bytes(wav_bytes())
    text = "search:\n  - {task: asr, dataset_path: a.jsonl, condition: {noise: cabin.wav, snr_db: 5, speed: 1.1}}\n"
    (tmp_path / "evals.yaml").write_text(text)
    (task,) = load_evals(tmp_path / "evals.yaml").splits["search"]
    assert task.condition == Condition(noise=str(tmp_path / "cabin.wav"), snr_db=5, speed=1.1)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("{noise: none.wav}", "search.0.condition.noise: must be white, pink, brown or a recording, got .*none.wav"),
        ("{snr_db: loud}", "search.0.condition.snr_db: must be a number, got 'loud'"),
        ("{snr: 5}", "search.0.condition.snr: unknown key; known: speed"),
        ("{speed: 9}", "search.0.condition.speed: must be at most 2, got 9"),
        ("noisy", "search.0.condition: must be a mapping"),
    ],
)
def test_a_condition_that_is_none_is_refused_with_its_line(tmp_path: Path, condition: str, message: str) -> None:
    path = tmp_path / "evals.yaml"
    path.write_text(f"search:\n  - task: asr\n    dataset_path: a.jsonl\n    condition: {condition}\n")
    with pytest.raises(InputError, match=f"evals.yaml:4: {message}"):
        load_evals(path)
