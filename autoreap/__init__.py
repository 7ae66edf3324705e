"""autoreap finds, overnight, the smallest Qwen3-Omni that still hears well."""

__version__ = "0.5.0"
