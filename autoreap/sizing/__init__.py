"""What a model takes to store and to run, and what this machine has."""
