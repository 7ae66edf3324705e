"""An answer under way: what is written of it, what its draft may go on with, how much of it is worth feeding."""

from collections.abc import Sequence
from dataclasses import dataclass, field

# A forward pass takes about as long as this many tokens in it, beside the tokens themselves.
_PASS_IN_TOKENS = 128
# What is believed of drafts before one was tried: that so many tokens held before one did not.
_BELIEF = 50
# Chosen where the model's output is not a number.
NO_TOKEN = -1


@dataclass(frozen=True)
class Prompt:
    """What is to be answered.

    Attributes:
        num_tokens: its length, media included.
        max_new_tokens: bounds the answer; at least 1.
        draft: tokens that the answer is thought to have; may be empty.
    """

    num_tokens: int
    max_new_tokens: int
    draft: tuple[int, ...] = ()


@dataclass(frozen=True)
class Answer:
    """A greedy answer, and how its draft fared.

    Attributes:
        tokens: at most `max_new_tokens`, with the end token where it was reached.
        num_drafted: tokens that were fed because the draft had them.
        num_accepted: how many of these the model chose, too.
        draft_log_likelihood: the log-probability of the whole draft, and of an end after it; None where not asked for.
        is_number: whether the model's output was one all along; if not, the answer breaks off there.
    """

    tokens: tuple[int, ...]
    num_drafted: int
    num_accepted: int
    draft_log_likelihood: float | None = None
    is_number: bool = True


@dataclass
class Row:
    """An answer as far as it is written.

    Attributes:
        number: of the prompt.
        draft: of the prompt, without its end.
        next: where in the draft the answer may go on.
        rounds_in_vain: how many in a row had no token accepted.
    """

    number: int
    prompt: Prompt
    draft: tuple[int, ...]
    answer: list[int] = field(default_factory=list)
    next: int = 0
    num_drafted: int = 0
    num_accepted: int = 0
    num_misses: int = 0
    rounds_in_vain: int = 0
    finished: bool = False
    is_number: bool = True
    log_likelihood: float | None = None

    @property
    def room(self) -> int:
        """How many tokens there may be before the last one."""
        return self.prompt.max_new_tokens - len(self.answer) - 1

    @property
    def num_cached(self) -> int:
        """All its tokens but the last."""
        return self.prompt.num_tokens + len(self.answer) - 1

    def guess(self, limit: int) -> list[int]:
        """At most `limit` tokens that may come next."""
        return [] if self.finished else list(self.draft[self.next : self.next + min(limit, self.room)])

    def take(self, guess: Sequence[int], chosen: Sequence[int], end_token: int) -> int:
        """Write what the model chose; how many tokens of `guess` are accepted.

        `chosen` is what comes after each of its tokens, and before the first: one more.
        """
        if self.finished:
            return 0
        accepted = next((place for place, token in enumerate(guess) if token != chosen[place]), len(guess))
        self.is_number = chosen[accepted] != NO_TOKEN
        self.answer += chosen[: accepted + 1] if self.is_number else [*chosen[:accepted], end_token]
        self.num_drafted += len(guess)
        self.num_accepted += accepted
        self.num_misses += accepted < len(guess)
        self.rounds_in_vain = 0 if accepted else self.rounds_in_vain + 1
        self.next = self._continuation(self.next + accepted)
        self.finished = self.room < 0 or self.answer[-1] == end_token
        return accepted

    def chance(self) -> float:
        """How probable it is that the draft's next token holds, by what held before (Laplace's rule of succession)."""
        if self.finished or self.next >= len(self.draft) or self.room == 0:
            return 0.0
        return (self.num_accepted + 1) / (self.num_accepted + self.num_misses + 2)

    def as_answer(self) -> Answer:
        """What it has come to."""
        tokens = self.answer if self.is_number else self.answer[:-1]
        return Answer(tuple(tokens), self.num_drafted, self.num_accepted, self.log_likelihood, self.is_number)

    def _continuation(self, expected: int) -> int:
        """Where the draft goes on after the last token written, which was expected at `expected`.

        Found by that token, so that one left out or put in does not shift all that follows; once rounds were in vain,
        by the last two. Where it is not found, it stands in for the token expected.
        """
        in_vain = self.rounds_in_vain > 1
        last = tuple(self.answer[-2:] if in_vain else self.answer[-1:])
        ends = [end for end in range(len(last), len(self.draft) + 1) if self.draft[end - len(last) : end] == last]
        if ends:
            return min(ends, key=lambda end: abs(end - 1 - expected))
        return len(self.draft) if in_vain else expected + 1


@dataclass
class Belief:
    """How many tokens of drafts held in the first passes, and how many did not."""

    num_accepted: int = _BELIEF
    num_misses: int = 1

    @property
    def chance(self) -> float:
        """Of one token."""
        return self.num_accepted / (self.num_accepted + self.num_misses)

    def update(self, batch: Sequence[Row]) -> None:
        """After the first pass of `batch`."""
        self.num_accepted += sum(row.num_accepted for row in batch)
        self.num_misses += sum(row.num_misses for row in batch)


def num_worth_feeding(chances: Sequence[float], most: int) -> int:
    """How many tokens of its draft to feed for each row, if each of them holds with its row's chance; `most` at most.

    One token more of every row costs as much as B tokens. If it holds, it saves the row a round, of which the row's
    share is (`_PASS_IN_TOKENS` + B) / B tokens.
    """
    num_rows = len(chances)
    least = num_rows**2 / (_PASS_IN_TOKENS + num_rows)
    depth, hold = 0, list(chances)
    while depth < most and sum(hold) >= least:
        depth += 1
        hold = [probability * chance for probability, chance in zip(hold, chances, strict=True)]
    return depth


def without_end(end_token: int, draft: tuple[int, ...]) -> tuple[int, ...]:
    """`draft` without the token that ends it, and what follows."""
    return draft[: draft.index(end_token)] if end_token in draft else draft
