"""A study over nights and workers: what is tried, what is stopped early, what is known, who takes which trial."""
