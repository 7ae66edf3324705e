"""The first inputs of the fuzz (`tests/helpers/fuzzing.py`), a few of each case; more by hand."""

import os

import pytest
from fuzzing import fuzz

NUM_INPUTS = 150


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="each input runs in a fork")
@pytest.mark.usefixtures("offline")
def test_whatever_is_read_ends_in_a_result_or_one_clear_line() -> None:
    faults = [(each.number, each.case, each.fault, each.said[-500:]) for each in fuzz(NUM_INPUTS, 0) if each.fault]
    assert not faults
