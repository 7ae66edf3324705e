"""An answer under way: what is written of it, how its draft may continue, and how many draft tokens to feed."""

from collections.abc import Sequence
from dataclasses import dataclass, field

# The acceptance rate before any draft was tried: so many tokens accepted, one rejected.
_PRIOR_ACCEPTED = 50
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
        rejected_rounds: how many in a row had no token accepted.
    """

    number: int
    prompt: Prompt
    draft: tuple[int, ...]
    answer: list[int] = field(default_factory=list)
    next: int = 0
    num_drafted: int = 0
    num_accepted: int = 0
    num_rejected: int = 0
    rejected_rounds: int = 0
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

    def draft_tokens(self, limit: int) -> list[int]:
        """At most `limit` tokens of the draft that may come next."""
        if self.finished:
            return []
        return list(self.draft[self.next : self.next + min(limit, self.room)])

    def take(self, fed: Sequence[int], chosen: Sequence[int], end_token: int) -> int:
        """Write what the model chose; returns how many of the draft tokens that were `fed` are accepted.

        `chosen` is the model's choice before the first of these tokens and after each of them: one more.
        """
        if self.finished:
            return 0
        accepted = 0
        while accepted < len(fed) and fed[accepted] == chosen[accepted]:
            accepted += 1
        last = chosen[accepted]
        self.is_number = last != NO_TOKEN
        if not self.is_number:
            last = end_token  # the answer breaks off here
        self.answer += [*fed[:accepted], last]
        self.num_drafted += len(fed)
        self.num_accepted += accepted
        self.num_rejected += accepted < len(fed)
        if accepted:
            self.rejected_rounds = 0
        else:
            self.rejected_rounds += 1
        self._correct_draft(fed[accepted + 1 :], chosen[accepted + 1 : -1], self.next + accepted + 1, end_token)
        self.next = self._continuation(self.next + accepted)
        self.finished = self.room < 0 or self.answer[-1] == end_token
        return accepted

    def acceptance_rate(self) -> float:
        """The probability that the draft's next token is accepted, by Laplace's rule of succession."""
        if self.finished or self.next >= len(self.draft) or self.room == 0:
            return 0.0
        return (self.num_accepted + 1) / (self.num_accepted + self.num_rejected + 2)

    def as_answer(self) -> Answer:
        """What it has come to."""
        tokens = self.answer
        if not self.is_number:
            tokens = tokens[:-1]  # the end stands for what was no number
        return Answer(tuple(tokens), self.num_drafted, self.num_accepted, self.log_likelihood, self.is_number)

    def _correct_draft(self, fed: Sequence[int], chosen: Sequence[int], start: int, end_token: int) -> None:
        """Put into the draft, from `start` on, what the model has `chosen` in place of `fed`, after a rejected token.

        It chose them after a wrong token. Where most of them agree with the draft all the same, the model goes by what
        it hears, and where it disagrees after a token that it agrees with, that is what it will answer. So a round
        corrects many places of a long draft, not one (Jacobi iteration; Santilli et al., 2023, arXiv:2305.10427).
        """
        num_equal = sum(ours == other for ours, other in zip(chosen, fed, strict=True))
        if num_equal * 2 < len(fed) or num_equal == len(fed) or NO_TOKEN in chosen:
            return
        corrected = list(fed)
        for place in range(1, len(fed)):
            if fed[place - 1] == chosen[place - 1]:
                corrected[place] = chosen[place]
        self.draft = without_end(end_token, (*self.draft[:start], *corrected, *self.draft[start + len(fed) :]))

    def _continuation(self, expected: int) -> int:
        """Where the draft goes on after the last token written, which was expected at `expected`.

        Found by that token, so that a token left out or put in does not shift all that follows. After two rejected
        rounds it is found by the last two tokens. Where it is not found, it stands in for the token expected.
        """
        num_matching = 1
        if self.rejected_rounds > 1:
            num_matching = 2
        last = tuple(self.answer[-num_matching:])
        ends = [end for end in range(len(last), len(self.draft) + 1) if self.draft[end - len(last) : end] == last]
        if ends:
            return min(ends, key=lambda end: abs(end - 1 - expected))
        if num_matching == 2:
            return len(self.draft)  # rejected twice, and it matches nowhere: it is given up
        return expected + 1


@dataclass
class AcceptanceStats:
    """How many draft tokens were accepted in the first passes, and how many were rejected."""

    num_accepted: int = _PRIOR_ACCEPTED
    num_rejected: int = 1

    @property
    def rate(self) -> float:
        """The acceptance rate of one token."""
        return self.num_accepted / (self.num_accepted + self.num_rejected)

    def update(self, batch: Sequence[Row]) -> None:
        """Count the first pass of `batch`."""
        for row in batch:
            self.num_accepted += row.num_accepted
            self.num_rejected += row.num_rejected


def draft_length(acceptance_rates: Sequence[float], most: int, pass_tokens: int) -> int:
    """How many draft tokens to feed for each row, from the rows' acceptance rates; at most `most`.

    One token more of every row costs as much as B tokens. If it is accepted, it saves the row a round, of which the
    row's share is (`pass_tokens` + B) / B tokens.
    """
    num_rows = len(acceptance_rates)
    least = num_rows**2 / (pass_tokens + num_rows)
    length = 0
    accepted = list(acceptance_rates)  # the probability that all tokens so far are accepted
    while length < most and sum(accepted) >= least:
        length += 1
        accepted = [probability * rate for probability, rate in zip(accepted, acceptance_rates, strict=True)]
    return length


def without_end(end_token: int, draft: tuple[int, ...]) -> tuple[int, ...]:
    """`draft` without the token that ends it, and what follows."""
    if end_token not in draft:
        return draft
    return draft[: draft.index(end_token)]
