"""What is drawn from a space, by which sampler, and what is tried first."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from builders import SHAPE
from optuna.trial import FixedTrial, TrialState
from pages import ROOT

from autoreap.candidate import Candidate, control
from autoreap.errors import InputError
from autoreap.models.families.qwen3_omni import QWEN3_OMNI
from autoreap.models.loading import open_model
from autoreap.plan import ComponentShape, ModelShape
from autoreap.search.samplers import make_sampler
from autoreap.search.sampling import (
    check_groups,
    check_known_parameters,
    check_space,
    enqueue_presets,
    num_layers_to_order,
    sample,
)
from autoreap.search.space import SpaceConfig, load_space

CONFIG_30B = ROOT / "tests" / "fixtures" / "qwen3-omni-30b-a3b-instruct.config.json"
LARGE = ModelShape({"thinker": ComponentShape(48, 128, 8), "talker": ComponentShape(20, 128, 6)}, deepstack_layers=3)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def space(folder: Path, parameters: str, rest: str = "") -> SpaceConfig:
    (folder / "audio.jsonl").touch()
    text = f"calibration: {{audio: audio.jsonl}}\nevals: evals.yaml\nparameters:\n{parameters}{rest}"
    (folder / "space.yaml").write_text(text)
    return load_space(folder / "space.yaml")


@pytest.mark.parametrize("path", sorted((ROOT / "search_spaces").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_space_fits_its_model(path: Path) -> None:
    config = load_space(path)
    shape = QWEN3_OMNI.layout.shape(json.loads(CONFIG_30B.read_text()))
    if path.stem == "tiny":
        shape = ModelShape({"thinker": ComponentShape(6, 16, 2)})
    check_space(config, shape)
    directions: list[Any] = list(config.objectives.values())
    study = optuna.create_study(directions=directions, sampler=make_sampler(config, 0))
    enqueue_presets(study, config, shape)
    packs = isinstance(config.parameters.get("bits"), tuple)
    variants = 1 + config.heals + packs  # as they are, healed, and with few bits
    assert len(study.trials) == variants * len(config.presets)
    for _ in range(20):
        sample(study.ask(), config, shape)


def test_a_number_of_experts_is_the_fraction_that_keeps_as_many(tmp_path: Path) -> None:
    config = space(tmp_path, "  experts: {low: 8, high: 128, step: 4}\n  talker.experts: 96\n")
    check_space(config, LARGE)
    candidate = sample(FixedTrial({"experts": 44}), config, LARGE)
    assert (candidate.retention * 128, candidate.talker_retention * 128) == (44, 96)


def test_presets_are_tried_first_in_the_terms_of_the_space_once(tmp_path: Path) -> None:
    parameters = (
        "  experts: {low: 48, high: 128}\n  lambda: {low: 0.1, high: 10, log: true}\n  layers_cut: [0, 4, 8, 12]\n"
    )
    config = space(tmp_path, parameters)
    study = optuna.create_study(directions=["minimize", "minimize"])
    for _ in range(2):
        enqueue_presets(study, config, LARGE)
    enqueued = [(trial.user_attrs["preset"], trial.system_attrs["fixed_params"]) for trial in study.trials]
    assert enqueued == [
        ("light", {"experts": 96, "lambda": 1.0, "layers_cut": 4}),
        ("medium", {"experts": 64, "lambda": 1.0, "layers_cut": 8}),
    ]


@pytest.mark.parametrize(
    ("parameters", "outside"),
    [
        ("  retention: 0.4\n  layers_cut: {low: 0, high: 12}\n", "retention 0.5"),
        ("  retention: {low: 0.6, high: 1.0}\n  layers_cut: {low: 0, high: 12}\n", "retention 0.5"),
        ("  retention: {low: 0.2, high: 1.0}\n", "layers_cut 8"),
        ("  retention: 0.5\n  layers_cut: 8\n  saliency: [reap, frequency]\n", "saliency affinity"),
    ],
)
def test_a_preset_that_the_space_does_not_hold_is_named_and_left_out(
    parameters: str, outside: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = space(tmp_path, parameters, "presets: [medium]\n")
    study = optuna.create_study(directions=["minimize", "minimize"])
    enqueue_presets(study, config, LARGE)
    assert not study.trials
    assert f"preset medium lies outside the space ({outside}), not tried" in capsys.readouterr().err


def test_each_preset_is_tried_healed_too_where_the_space_has_a_choice(tmp_path: Path) -> None:
    parameters = """  retention: {low: 0.25, high: 1}
  layers_cut: {low: 0, high: 2}
  heal: [none, block, stream]
  heal_ridge: {low: 0.001, high: 1, log: true, when: {heal: [block, stream]}}
"""
    study = optuna.create_study()
    enqueue_presets(study, space(tmp_path, parameters, "presets: [medium]\n"), SHAPE)
    asked = [trial.system_attrs["fixed_params"] for trial in study.trials]
    assert [params.get("heal") for params in asked] == ["none", "stream"]
    assert [params.get("heal_ridge") for params in asked] == [None, 0.001]
    assert [trial.user_attrs["preset"] for trial in study.trials] == ["medium", "medium healed"]


def test_each_preset_is_tried_with_few_bits_too_where_the_space_has_a_choice(tmp_path: Path) -> None:
    parameters = """  retention: {low: 0.25, high: 1}
  layers_cut: {low: 0, high: 2}
  heal: [none, stream]
  bits: [16, 8, 4]
  bits_rest: {choices: [16, 8], when: {bits: [8, 4]}}
  active_experts: [1, 2]
"""
    study = optuna.create_study()
    enqueue_presets(study, space(tmp_path, parameters, "presets: [medium]\n"), SHAPE)
    asked = [trial.system_attrs["fixed_params"] for trial in study.trials]
    assert [params["bits"] for params in asked] == [16, 16, 4]
    assert [params.get("bits_rest") for params in asked] == [None, None, 8]
    assert {params["active_experts"] for params in asked} == {2}
    assert study.trials[2].user_attrs["preset"] == "medium healed 4 bits"


def test_how_to_heal_is_not_searched_where_nothing_is_healed(tmp_path: Path) -> None:
    config = space(tmp_path, "  retention: {low: 0.25, high: 1}\n  heal_ridge: {low: 0.001, high: 1, log: true}\n")
    with pytest.raises(InputError, match=r"heal_ridge: has no effect without heal"):
        check_space(config, SHAPE)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("  bits: [16, 4]\n  bits_rest: [16, 8]\n", r"bits_rest: transformers can't load it .*add when"),
        ("  retention: 0.5\n  bits_group: [16, 32]\n", "bits_group: has no effect without bits"),
        ("  active_experts: [1, 2, 3]\n", "active_experts: the thinker routes a token to 2 experts, got 3"),
    ],
)
def test_bits_and_active_experts_that_no_candidate_could_have_are_refused(
    parameters: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        check_space(space(tmp_path, parameters), SHAPE)


def test_bits_of_the_rest_are_searched_where_experts_are_quantised(tmp_path: Path) -> None:
    parameters = "  bits: [16, 8, 4]\n  bits_rest: {choices: [16, 8, 4], when: {bits: [8, 4]}}\n"
    config = space(tmp_path, parameters)
    check_space(config, SHAPE)
    assert sample(FixedTrial({"bits": 16}), config, SHAPE).bits_rest == 16
    assert sample(FixedTrial({"bits": 4, "bits_rest": 8}), config, SHAPE).bits_rest == 8


@pytest.mark.parametrize(
    ("parameters", "group"),
    [("  bits: [16, 4]\n", 32), ("  bits: 4\n  bits_group: [16, 48]\n", 48)],
)
def test_groups_that_do_not_divide_rows_are_refused_before_a_search(
    parameters: str, group: int, tmp_path: Path
) -> None:
    model_info = open_model("tiny")
    with pytest.raises(InputError, match=rf"parameters\.bits_group: rows of talker.* into groups of {group}"):
        check_groups(space(tmp_path, parameters), model_info)
    check_groups(space(tmp_path, "  bits: [16, 4]\n  bits_group: 16\n"), model_info)
    check_groups(space(tmp_path, "  bits: [16, 4]\n  drop_speech: true\n"), model_info)
    check_groups(space(tmp_path, "  retention: 0.5\n"), model_info)


def test_experts_of_a_dense_thinker_are_not_quantised(tmp_path: Path) -> None:
    dense = ModelShape({"thinker": ComponentShape(8, 0, 0)})
    check_space(space(tmp_path, "  bits_rest: [16, 4]\n"), dense)
    with pytest.raises(InputError, match="bits: the thinker is dense, it has no experts"):
        check_space(space(tmp_path, "  bits: [16, 4]\n"), dense)
    with pytest.raises(InputError, match=r"active_experts: .* \(remove it, the thinker is dense\)"):
        check_space(space(tmp_path, "  active_experts: [1]\n"), dense)


def test_a_preset_is_not_asked_for_a_parameter_that_is_not_drawn_beside_it(tmp_path: Path) -> None:
    parameters = (
        "  retention: {low: 0.2, high: 1.0}\n  layers_cut: {low: 0, high: 12}\n  layer_selection: [single, block]\n"
        "  similarity_threshold: {low: 0.5, high: 0.99, when: {layer_selection: block}}\n"
    )
    study = optuna.create_study(directions=["minimize", "minimize"])
    enqueue_presets(study, space(tmp_path, parameters, "presets: [medium]\n"), LARGE)
    (trial,) = study.trials
    assert trial.system_attrs["fixed_params"] == {"retention": 0.5, "layers_cut": 8, "layer_selection": "single"}


CONDITIONAL = """\
  saliency: [affinity, reap]
  retention: {low: 0.25, high: 1.0}
  lambda: {low: 0.1, high: 10.0, log: true, when: {saliency: affinity}}
  beta: {choices: [0.5, 1.0], when: {saliency: [affinity]}}
"""


def test_what_a_condition_rules_out_is_not_drawn_and_takes_its_ordinary_value(tmp_path: Path) -> None:
    config = space(tmp_path, CONDITIONAL)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=make_sampler(config, 0))
    drawn = {}
    for _ in range(20):
        trial = study.ask()
        candidate = sample(trial, config, LARGE)
        drawn[candidate.saliency] = set(trial.params)
        if candidate.saliency == "reap":
            assert (candidate.lambda_, candidate.beta) == (Candidate().lambda_, Candidate().beta)
    assert drawn == {"affinity": {"saliency", "retention", "lambda", "beta"}, "reap": {"saliency", "retention"}}


def test_controls_differ_from_the_medium_preset_in_their_ranking_alone() -> None:
    medium = Candidate(retention=0.5, layers_cut=8, strip_vision=True)
    for name, ranking in (("random", "random"), ("uniform-reap", "reap")):
        assert control(name, 48).parameters() == medium.parameters() | {"saliency": ranking}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            "  experts: {low: 4, high: 64}\n",
            "parameters.experts: the thinker has 128 experts and routes to 8, got 4 to 64",
        ),
        ("  talker.experts: [64, 256]\n", "parameters.talker.experts: the talker has 128 experts and routes to 6"),
        ("  layers_cut: {low: 0, high: 44}\n", "parameters.layers_cut: at most 40 of 48 layers may be cut, got 44"),
        ("  talker.layers_cut: 17\n", "parameters.talker.layers_cut: at most 16 of 20 layers"),
        (
            "  layers_cut: {low: 0, high: 9}\n  layer_selection: [single, block]\n",
            "a block has at most 8 layers, got 9",
        ),
        ("  layers_cut: 40\n  protect_last: [4, 6]\n", "at most 38 of 48 layers"),
        (
            "  layers_cut: {low: 0, high: 13}\n  layer_selection: [single, loss]\n",
            "parameters.layers_cut: at most 12 of 48 layers may be cut by what the answers lose, got 13",
        ),
        (
            "  layers_cut: 1\n  layer_selection: loss\n  talker.layers_cut: [0, 1]\n",
            "parameters.layer_selection: the talker's layers can't be ranked",
        ),
    ],
)
def test_a_space_that_asks_too_much_of_the_model_is_refused(parameters: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        check_space(space(tmp_path, parameters), LARGE)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("  layers_cut: {low: 0, high: 12}\n", 0),
        ("  layers_cut: {low: 0, high: 8}\n  layer_selection: [single, block]\n", 0),
        ("  layers_cut: {low: 0, high: 12}\n  layer_selection: [single, loss]\n", 12),
        ("  layers_cut: {low: 2, high: 3}\n  layer_selection: loss\n  protect_first: [0, 6]\n", 5),
        ("  retention: 0.5\n  layer_selection: [single, loss]\n", 0),
    ],
)
def test_a_space_needs_as_many_layers_in_order_as_it_may_cut_by_loss(
    parameters: str, expected: int, tmp_path: Path
) -> None:
    assert num_layers_to_order(space(tmp_path, parameters), LARGE) == expected


def test_a_space_of_the_talker_is_refused_for_a_model_without_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"parameters.talker.retention: this model has no talker"):
        check_space(space(tmp_path, "  talker.retention: 0.5\n"), ModelShape({"thinker": SHAPE.components["thinker"]}))


PARAMETERS = "  retention: {low: 0.25, high: 1.0}\n  layers_cut: {low: 0, high: 12}\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        *("tpe", "random", "nsgaii", "nsgaiii", "gp", "qmc", "TPESampler"),
        "{name: tpe, multivariate: true, n_startup_trials: 4}",
        "{name: nsgaii, population_size: 4, mutation_prob: 0.1}",
        "{name: gp, n_startup_trials: 4}",
    ],
)
def test_a_sampler_searches_several_objectives_under_constraints(text: str, tmp_path: Path) -> None:
    config = space(tmp_path, PARAMETERS, f"sampler: {text}\n")
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=make_sampler(config, 0))
    for number in range(12):
        trial = study.ask()
        candidate = sample(trial, config, LARGE)
        size = candidate.retention * (48 - candidate.layers_cut)
        trial.set_constraint("size", size / 30 - 1)
        if size > 30 and number % 2:
            study.tell(trial, state=TrialState.PRUNED)
            continue
        trial.set_constraint("wer", 1 / size - 0.1)
        study.tell(trial, [size, 1 / size])
    assert len(study.trials) == 12


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cmaes", "CmaEsSampler can't do several objectives.*use tpe"),
        ("GridSampler", "GridSampler needs search_space, which a file can't give"),
        ("BruteForceSampler", "BruteForceSampler ends a study by itself"),
        ("BaseSampler", "optuna.samplers has no BaseSampler"),
        ("MagicSampler", "optuna.samplers has no MagicSampler.*tpe, random"),
        ("{name: tpe, multivariat: true}", "TPESampler takes no 'multivariat'.*known: .*multivariate"),
        ("{name: tpe, seed: 3}", "TPESampler takes no 'seed'"),
        ("{name: tpe, gamma: 3}", "TPESampler takes no 'gamma'"),
        ("{name: tpe, multivariate: 3}", r"multivariate must be bool \| None, got 3"),
        ("{name: tpe, n_startup_trials: true}", "n_startup_trials must be int, got True"),
        ("{name: tpe, multivariate: false, group: true}", "TPESampler refuses: .*group"),
        ("{name: nsgaii, population_size: 1}", "NSGAIISampler refuses: .*population_size"),
    ],
)
def test_a_sampler_that_is_not_there_or_can_not_do_it_is_refused_up_front(
    text: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=rf"space\.yaml: sampler: {message}"):
        check_space(space(tmp_path, PARAMETERS, f"sampler: {text}\n"), LARGE)


def test_cmaes_is_refused_with_constraints_though_it_may_do_one_objective(tmp_path: Path) -> None:
    rest = "sampler: cmaes\nobjectives: {wer: minimise}\nconstraints: [size <= 20 GB]\n"
    with pytest.raises(InputError, match="CmaEsSampler can't do constraints"):
        check_space(space(tmp_path, PARAMETERS, rest), LARGE)


def test_tpe_learns_from_candidates_that_were_ruled_out_before_scoring(tmp_path: Path) -> None:
    """A bound that two in three random draws break: after some of them, most draws keep it."""
    config = space(tmp_path, "  retention: {low: 0.1, high: 1.0}\n")
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=make_sampler(config, 0))
    kept: list[bool] = []
    for _ in range(60):
        trial = study.ask()
        retention = sample(trial, config, LARGE).retention
        trial.set_constraint("size", retention / 0.4 - 1)
        kept.append(retention <= 0.4)
        study.tell(trial, *([[retention, 1 - retention]] if kept[-1] else [None, TrialState.PRUNED]))
    assert sum(kept[:10]) <= 6
    assert sum(kept[-30:]) >= 24


def test_a_tpe_over_conditions_models_them_in_groups(tmp_path: Path) -> None:
    config = space(tmp_path, CONDITIONAL, "sampler: {name: tpe, multivariate: true, n_startup_trials: 5}\n")
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=make_sampler(config, 0))
    for _ in range(10):
        trial = study.ask()
        candidate = sample(trial, config, LARGE)
        study.tell(trial, [candidate.retention, abs(candidate.lambda_ - 3)])
    relative = [set(study.sampler.infer_relative_search_space(study, trial)) for trial in study.trials[-1:]]
    assert relative == [{"saliency", "retention", "lambda", "beta"}]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("{low: 0.25, high: 1.0}", "[0.25, 0.5]"),
        ("[0.25, 0.5]", "[0.25, 0.75]"),
        ("[0.25, 0.5]", "[0.5, 0.25]"),
        ("{low: 0.25, high: 1.0}", "{low: 0.25, high: 1.0, log: true}"),
    ],
)
def test_a_parameter_that_no_trial_could_sample_any_more_is_refused_by_its_key(
    before: str, after: str, tmp_path: Path
) -> None:
    study = sampled_once(tmp_path, f"  lambda: 1\n  retention: {before}\n")
    changed = space(tmp_path, f"  retention: {after}\n")
    with pytest.raises(ValueError, match=r"distribution|log|dynamic"):
        sample(study.ask(), changed, LARGE)
    with pytest.raises(InputError, match=r"space.yaml: parameters.retention: study .* has sampled from .* --study"):
        check_known_parameters(study, changed)


@pytest.mark.parametrize("after", ["{low: 0.5, high: 0.75}", "{low: 0.25, high: 1.0, step: 0.25}", "0.5"])
def test_a_range_may_change_and_a_parameter_may_become_fixed(after: str, tmp_path: Path) -> None:
    study = sampled_once(tmp_path, "  retention: {low: 0.25, high: 1.0}\n")
    changed = space(tmp_path, f"  retention: {after}\n  beta: {{low: 0.0, high: 1.0}}\n")
    check_known_parameters(study, changed)
    sample(study.ask(), changed, LARGE)


def sampled_once(folder: Path, parameters: str) -> optuna.Study:
    config = space(folder, parameters)
    study = optuna.create_study(storage=f"sqlite:///{folder}/studies.db", sampler=make_sampler(config, 0))
    sample(study.ask(), config, LARGE)
    return study


def test_a_resumed_search_draws_anew(tmp_path: Path) -> None:
    config = space(tmp_path, PARAMETERS, "sampler: random\nseed: 7\n")

    def first(num_trials: int) -> dict[str, Any]:
        study = optuna.create_study(directions=["minimize", "minimize"], sampler=make_sampler(config, num_trials))
        trial = study.ask()
        sample(trial, config, LARGE)
        return trial.params

    assert first(0) == first(0)
    assert first(0) != first(1)
