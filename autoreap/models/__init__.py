"""A stock model: what things are called inside it, its headers, loading it, and its chat inputs."""
