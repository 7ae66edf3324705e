"""A family that neither sees nor speaks: Qwen2-Audio."""

from random_qwen2_audio import QWEN2_AUDIO
from test_families import FamilyContract


class TestQwen2Audio(FamilyContract):
    specimen = QWEN2_AUDIO
