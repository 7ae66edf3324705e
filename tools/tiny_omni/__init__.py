"""The recipe that trains the embedded model from scratch, and makes its calibration and evaluation data."""
