"""The rows that these files name, from disk or from the hub."""
