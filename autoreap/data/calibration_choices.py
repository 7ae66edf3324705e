"""How calibration may measure, under the names users write."""

from typing import Literal, get_args

Tokens = Literal["prompt", "answer", "both"]  # which tokens of a row count; media are of the prompt
Gates = Literal["normalised", "raw"]  # what the block multiplies by, or the router's own probability
TOKENS: tuple[Tokens, ...] = get_args(Tokens)
GATES: tuple[Gates, ...] = get_args(Gates)
DEFAULT_TOKENS = "both"
DEFAULT_GATES = "normalised"
