"""How calibration may measure, under the names users write."""

TOKENS = ("prompt", "answer", "both")  # which tokens of a row count; media are of the prompt
GATES = ("normalised", "raw")  # what the block multiplies by, or the router's own probability
DEFAULT_TOKENS = "both"
DEFAULT_GATES = "normalised"
