"""How the rows of a task are answered in less time, with the same answers."""
