"""The files that a user writes: spaces, evals, calibration sets. All mistakes in one are told at once."""
