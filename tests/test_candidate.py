from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoreap.candidate import LAYER_SELECTIONS, RANKINGS, Candidate, parameter_name, preset
from autoreap.errors import InputError

FRACTIONS = st.floats(min_value=0, max_value=1, exclude_min=True)
WEIGHTS = st.floats(min_value=0, max_value=1e6)
CUTS = st.integers(min_value=0, max_value=48)
CANDIDATES = st.builds(
    Candidate,
    retention=FRACTIONS,
    lambda_=WEIGHTS,
    beta=WEIGHTS,
    layers_cut=CUTS,
    saliency=st.sampled_from(RANKINGS),
    layer_selection=st.sampled_from(LAYER_SELECTIONS),
    seed=st.integers(0, 2**31),
    strip_vision=st.booleans(),
    talker_retention=FRACTIONS,
    talker_layers_cut=CUTS,
)


@given(candidate=CANDIDATES)
def test_parameters_under_the_names_of_users_rebuild_the_candidate(candidate: Candidate) -> None:
    parameters = candidate.parameters()
    assert {"lambda", "talker.retention", "talker.layers_cut"} <= set(parameters)
    assert Candidate.from_parameters(parameters) == candidate


def test_parameters_that_are_not_given_take_the_values_of_the_unpruned_model() -> None:
    assert Candidate.from_parameters({}) == Candidate()
    assert (Candidate().retention, Candidate().layers_cut, Candidate().strip_vision) == (1.0, 0, False)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[(name, value) for name in ("retention", "talker_retention") for value in (0.0, -0.5, 1.01, float("nan"))],
        *[(name, value) for name in ("lambda_", "beta") for value in (-0.1, float("nan"), float("inf"))],
        ("layers_cut", -1),
        ("talker_layers_cut", -1),
        ("saliency", "magic"),
        ("layer_selection", "every_other"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_parameter_and_the_value_received(field: str, value: Any) -> None:
    with pytest.raises(InputError) as failure:
        Candidate(**{field: value})
    assert str(failure.value).startswith(f"{parameter_name(field)}: ")
    assert str(value) in str(failure.value)


def test_an_unknown_parameter_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        InputError, match=r"unknown parameter 'lamda'.*beta, .*drop_speech, heal, .*lambda, layer_selection"
    ):
        Candidate.from_parameters({"lamda": 1.0})


@pytest.mark.parametrize(
    ("name", "num_layers", "retention", "layers_cut"),
    [
        ("light", 48, 0.75, 4),
        ("medium", 48, 0.5, 8),
        ("aggressive", 48, 0.25, 12),
        ("light", 24, 0.75, 2),
        ("medium", 6, 0.5, 1),
        ("aggressive", 12, 0.25, 3),
    ],
)
def test_a_preset_scales_its_cuts_with_depth_and_strips_vision(
    name: str, num_layers: int, retention: float, layers_cut: int
) -> None:
    assert preset(name, num_layers) == Candidate(retention=retention, layers_cut=layers_cut, strip_vision=True)


def test_a_preset_of_a_dense_decoder_is_its_cuts_alone() -> None:
    assert preset("medium", 48, dense=True) == Candidate(layers_cut=8, strip_vision=True)


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"unknown preset 'tiny'.*light, medium, aggressive"):
        preset("tiny", 48)
