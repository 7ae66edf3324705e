"""Search a study: sample, score, prune, finalise. One process leads; others only score."""
