"""What a night on the published 30B should take on one H100 or H200: arithmetic, not measured.

    python benchmarks/expected_night.py

Tokens times operations a token, over the share of the card's peak that a framework reaches. That share is the guess:
between 10% and 1% for a mixture of experts run layer by layer. `docs/overnight.md` shows the table.
"""

from dataclasses import dataclass

from autoreap.commands.needs import PUBLISHED_NEED
from autoreap.models.families import family_of

HOURS, TOP_K = 8, 8
SHARES_OF_PEAK = (0.1, 0.01)
PROMPT_TOKENS = 20
TRANSCRIPT_TOKENS_PER_SECOND = 4
FRAMES_PER_SECOND = 100
DISK_BYTES_PER_SECOND = 1e9
WRITTEN_BYTES, TIMES_CP = 37.9e9, 1.24  # half of the experts and 44 layers: benchmarks/materialise.py
BATCH, PASSES_A_BATCH = 256, 12  # the draft, and corrections of the answer that needs most


@dataclass(frozen=True)
class Card:
    """Published figures: dense bf16 operations and bytes a second, and bytes (10^9) of memory."""

    name: str
    peak: float
    bandwidth: float
    memory_gb: float


@dataclass(frozen=True)
class Clips:
    """So many recordings of so many seconds on average, which is the set's published hours over its utterances."""

    count: int
    seconds: float

    @property
    def tokens(self) -> float:
        """Heard, asked and answered."""
        layout = family_of({"model_type": "qwen3_omni_moe"}).layout
        heard = layout.num_audio_tokens(round(self.seconds * FRAMES_PER_SECOND))
        return self.count * (heard + PROMPT_TOKENS + TRANSCRIPT_TOKENS_PER_SECOND * self.seconds)


CARDS = (Card("H100 80 GB", 989e12, 3.35e12, 80), Card("H200 141 GB", 989e12, 4.8e12, 141))
SEARCH_SPLIT = Clips(500, 5.3 * 3600 / 2864)  # LibriSpeech dev-other, as evals/english.yaml draws them
CALIBRATION = (Clips(300, 100.6 * 3600 / 28539), Clips(300, 496.7 * 3600 / 148688))  # train.100 clean, train.500 other


def active_parameters() -> float:
    """Parameters that a token of the thinker meets."""
    parameters = PUBLISHED_NEED.parameters
    return parameters["experts"] * TOP_K / PUBLISHED_NEED.num_experts + parameters["rest"]


def seconds_of_passes(tokens: float, card: Card, share: float, *, passes: int) -> float:
    """A multiplication and an addition for each active parameter; never less than reading the weights takes."""
    weights = PUBLISHED_NEED.num_parameters * PUBLISHED_NEED.bytes_each
    return max(2 * active_parameters() * tokens / (share * card.peak), passes * weights / card.bandwidth)


def row(card: Card) -> str:
    """Of the table: times at the better and the worse share of the peak."""
    need = PUBLISHED_NEED
    weights = need.num_parameters * need.bytes_each
    heard = sum(clips.tokens for clips in CALIBRATION)
    rows = sum(clips.count for clips in CALIBRATION)
    passes = -(-SEARCH_SPLIT.count // BATCH) * PASSES_A_BATCH
    calibrating = [seconds_of_passes(heard, card, share, passes=rows) for share in SHARES_OF_PEAK]
    scoring = [seconds_of_passes(SEARCH_SPLIT.tokens, card, share, passes=passes) for share in SHARES_OF_PEAK]
    left = [HOURS * 3600 - weights / DISK_BYTES_PER_SECOND - seconds for seconds in calibrating]
    most, least = (time / seconds for time, seconds in zip(left, scoring, strict=True))
    return (
        f"| {card.name} | {card.memory_gb - weights / 1e9:.1f} GB | {calibrating[0]:.0f} to {calibrating[1]:.0f} s "
        f"| {scoring[0]:.0f} to {scoring[1]:.0f} s | {least:,.0f} to {most:,.0f} |"
    )


def main() -> None:
    """The sums, and one row a card."""
    weights = PUBLISHED_NEED.num_parameters * PUBLISHED_NEED.bytes_each
    copied = 2 * WRITTEN_BYTES / DISK_BYTES_PER_SECOND
    print(f"operations a token: 2 x {active_parameters() / 1e9:.2f}e9")
    print(f"tokens: calibration {sum(c.tokens for c in CALIBRATION):,.0f}, search split {SEARCH_SPLIT.tokens:,.0f}")
    print(f"loading {weights / 1e9:.1f} GB at 1 GB/s: {weights / DISK_BYTES_PER_SECOND:.0f} s")
    print(f"writing {WRITTEN_BYTES / 1e9:.1f} GB, verified: {TIMES_CP} x {copied:.0f} s = {TIMES_CP * copied:.0f} s\n")
    print(f"| | beside the weights | calibration | a full score | full scores in {HOURS} hours |")
    print("|---|---|---|---|---|")
    for card in CARDS:
        print(row(card))


if __name__ == "__main__":
    main()
