"""The embedded model: a tiny Qwen3-Omni that really transcribes. `tools/tiny_omni` trains it from scratch."""

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"
