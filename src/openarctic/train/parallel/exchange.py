"""All-to-all of rows that travels while other work is done, forwards and backwards.

`send` starts an exchange and `receive` waits for it; what is computed between the two calls runs beside the transfer. In the
backward pass the roles change: the gradient of `receive` starts the reverse exchange and the gradient of `send` waits for it.
Autograd runs nodes in the reverse order of their creation, as far as their inputs are there, so the same work that was beside the
transfer is beside its reverse, and all processes start their exchanges in the same order.

Shapes: N rows, H hidden.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Exchange:
    """One all-to-all within a group: `sent[i]` rows go to process i and `received[i]` rows come from it.

    With `overlap` False every start waits at once, which is the reference that the other schedule must equal.
    """

    def __init__(self, group: dist.ProcessGroup, sent: list[int], received: list[int], *, overlap: bool) -> None:
        self.group, self.sent, self.received = group, sent, received
        self.overlap = overlap
        self._work: dist.Work | None = None
        self._gradient_NH: Tensor | None = None

    def send(self, rows_NH: Tensor) -> Tensor:
        """Start; the result [sum(received), H] may be read only after `receive` was given it."""
        return _Send.apply(rows_NH, self)

    def receive(self, buffer_NH: Tensor) -> Tensor:
        """Wait for the rows that `send` promised."""
        return _Receive.apply(buffer_NH, self)

    def begin(self, rows_NH: Tensor, sent: list[int], received: list[int]) -> Tensor:
        """Start a transfer into a new buffer."""
        buffer_NH = rows_NH.new_empty(sum(received), *rows_NH.shape[1:])
        self._work = dist.all_to_all_single(buffer_NH, rows_NH.contiguous(), received, sent, group=self.group, async_op=True)
        if not self.overlap:
            self.end()
        return buffer_NH

    def end(self) -> None:
        """Wait for the transfer under way, if there is one."""
        if self._work is not None:
            self._work.wait()
            self._work = None

    def begin_reverse(self, gradient_NH: Tensor) -> None:
        """Start the way back of the gradient."""
        self._gradient_NH = self.begin(gradient_NH, self.received, self.sent)

    def end_reverse(self) -> Tensor:
        """The gradient of the rows that were sent."""
        self.end()
        assert self._gradient_NH is not None
        gradient_NH, self._gradient_NH = self._gradient_NH, None
        return gradient_NH


class _Send(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_NH: Tensor, exchange: Exchange) -> Tensor:
        ctx.exchange = exchange
        return exchange.begin(rows_NH, exchange.sent, exchange.received)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.exchange.end_reverse(), None


class _Receive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, buffer_NH: Tensor, exchange: Exchange) -> Tensor:
        ctx.exchange = exchange
        exchange.end()
        return buffer_NH.view_as(buffer_NH)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # The gradient that autograd hands on must have the buffer's shape; the one with the shape of the rows travels aside.
        ctx.exchange.begin_reverse(gradients[0])
        return gradients[0], None
