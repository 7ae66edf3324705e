"""What a terminal shows and sends: the log of a night, a plot in characters, completion, signals."""
