"""From a plan to the bytes of a checkpoint, and the proof that they are right."""
