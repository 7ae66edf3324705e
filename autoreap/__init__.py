"""autoreap finds, overnight, the smallest Qwen3-Omni that still hears well."""

__version__ = "0.4.0"
