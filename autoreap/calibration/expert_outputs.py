"""The outputs of a block's experts, seen while the stock implementation computes them, whichever it is.

Shape legend as in `meter`: K = top-k, T tokens of a batch, H hidden, R (token, expert) pairs in any order.
"""

from collections.abc import Callable
from typing import Any

import torch

Experts = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Outputs:
    """The norms of the experts' outputs h_e(x), as they are recorded."""

    def __init__(self, top_k_weights: torch.Tensor) -> None:
        self.norms = torch.zeros_like(top_k_weights, dtype=torch.float32)  # [T, K]
        self._num_recorded = 0

    @property
    def is_complete(self) -> bool:
        """Each (token, expert) pair was recorded once."""
        return self._num_recorded == self.norms.numel()

    def record(self, outputs: torch.Tensor, pairs: torch.Tensor) -> None:
        """Take in the `outputs` [R, H] of `pairs` [R, 1], numbers in [0, T * K)."""
        norms = torch.linalg.vector_norm(outputs, dim=-1, dtype=torch.float32)
        # Experts may lie on another device than the router that gave the weights.
        self.norms = self.norms.to(norms.device)
        self.norms.view(-1).index_copy_(0, pairs.flatten(), norms)
        self._num_recorded += len(norms)


class RecordingWeights(torch.Tensor):
    """Routing weights [T, K] that record the outputs they are multiplied with.

    Stock implementations (eager, batched_mm, grouped_mm) put the weights in the order of their outputs by indexing and
    reshaping, then multiply. Each such step is repeated on `pairs`, which number the (token, expert) pairs; so at the
    multiplication it is known whose output it is. Any other step leads to plain weights, which record nothing, but for
    `to`, by which hooks bring them to the experts' device.
    """

    outputs: Outputs
    pairs: torch.Tensor

    _REORDERING = (
        torch.Tensor.__getitem__,
        torch.Tensor.reshape,
        torch.Tensor.view,
        torch.Tensor.flatten,
        torch.Tensor.unsqueeze,
        torch.Tensor.index_select,
    )

    @classmethod
    def of(cls, top_k_weights: torch.Tensor) -> "RecordingWeights":
        """The same weights, recording."""
        pairs = torch.arange(top_k_weights.numel(), device=top_k_weights.device).view_as(top_k_weights)
        return cls._make(top_k_weights, pairs, Outputs(top_k_weights))

    @classmethod
    def _make(cls, weights: torch.Tensor, pairs: torch.Tensor, outputs: Outputs) -> "RecordingWeights":
        recording = weights.as_subclass(cls)
        recording.pairs, recording.outputs = pairs, outputs
        return recording

    @classmethod
    def __torch_function__(cls, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do what is asked of the weights, and on the way what the class is for."""
        # Of plain tensors: with these weights among its arguments, the call would come back here.
        plain = list(args)
        for place, part in enumerate(args):
            if isinstance(part, cls):
                plain[place] = part.as_subclass(torch.Tensor)
        result = func(*plain, **(kwargs or {}))
        if func in cls._REORDERING and isinstance(args[0], cls):
            weights = args[0]
            return cls._make(result, func(weights.pairs, *args[1:], **(kwargs or {})), weights.outputs)
        if func is torch.Tensor.to and isinstance(args[0], cls):
            return cls._make(result, args[0].pairs.to(result.device), args[0].outputs)
        # By this the stock experts weight their outputs.
        if func is torch.Tensor.mul:
            cls._record(*args)
        return result

    @classmethod
    def _record(cls, left: Any, right: Any) -> None:
        """Of a product; only outputs have two dimensions, and a weight for each row."""
        weights, outputs = left, right
        if not isinstance(left, cls):
            weights, outputs = right, left
        if not isinstance(outputs, torch.Tensor) or outputs.ndim != 2:
            return
        if weights.pairs.shape == (len(outputs), 1):
            weights.outputs.record(outputs, weights.pairs)


def run_pair_by_pair(
    experts: Experts, hidden: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The output [T, H] of experts whose weights record nothing, and the norms [T, K] of what it is made of.

    Each (token, expert) pair is a token of its own: with weight 1 the experts return h_e(x) itself.
    """
    num_top_k = top_k_index.shape[1]
    pairs = hidden.repeat_interleave(num_top_k, dim=0)  # [T * K, H]
    outputs = experts(pairs, top_k_index.reshape(-1, 1), torch.ones_like(top_k_weights).reshape(-1, 1))
    weighted = outputs * top_k_weights.reshape(-1, 1)
    norms = torch.linalg.vector_norm(outputs, dim=-1, dtype=torch.float32).view_as(top_k_index)
    return weighted.view(-1, num_top_k, hidden.shape[-1]).sum(dim=1).to(hidden.dtype), norms
