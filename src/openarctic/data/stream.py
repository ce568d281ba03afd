"""One domain as an endless stream of tokens: its documents in an order of their own in every epoch, epoch after epoch.

What stands where is a function of the place alone, so nothing has to be remembered to go on from anywhere. Documents are shuffled
in blocks of BLOCK neighbours and the blocks among each other; `MixtureSource` shuffles the sequences of SPAN blocks as well, so
that a batch meets many of them. Memory holds running sums of blocks and of some blocks' documents, whatever the domain's size.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openarctic.data.packing import Piece, pieces_between
from openarctic.data.permutation import derive_key, permute
from openarctic.data.shards import TokenShards
from openarctic.errors import UserError

BLOCK = 1 << 14  # documents; a domain of fewer is shuffled as a whole
SPAN = 16  # blocks
_CACHED_BLOCKS = 2 * SPAN  # of 256 KiB


class _Order(NamedTuple):
    """Things in their order in one epoch, and the running sum of their tokens."""

    things: NDArray[np.int64]
    ends: NDArray[np.int64]


class DomainStream:
    """The tokens of `shards`, again and again.

    Documents of more than `max_document_tokens` are left out (`num_left_out` counts them); by default they are cut wherever a
    sequence ends. Without `shuffle` every epoch has the order of the files.
    """

    def __init__(
        self,
        shards: TokenShards,
        seed: int = 0,
        *,
        max_document_tokens: int | None = None,
        shuffle: bool = True,
        block: int = BLOCK,
    ) -> None:
        self.shards = shards
        self._seed = seed
        self._limit = max_document_tokens
        self._shuffle = shuffle
        self._block = block
        self.num_left_out = 0
        self._tokens_of_blocks = self._sum_blocks()
        self.num_tokens = int(self._tokens_of_blocks.sum())
        if not self.num_tokens:
            raise UserError(
                f"all {shards.num_documents} documents of {shards.folder} are longer than {max_document_tokens} tokens",
                "cut long documents, or train with longer sequences",
            )
        self._blocks = lru_cache(maxsize=2)(self._order_blocks)
        self._documents = lru_cache(maxsize=_CACHED_BLOCKS)(self._order_documents)

    @property
    def span(self) -> int:
        """About how many tokens SPAN blocks have: sequences that are not further apart may change places at little cost."""
        return SPAN * self.num_tokens // len(self._tokens_of_blocks)

    def read(self, start: int, length: int) -> list[NDArray[Any]]:
        """Token ids of the pieces that make up `length` tokens from token `start` of the stream on."""
        return [self.shards.read(*piece) for piece in self.pieces(start, length)]

    def pieces(self, start: int, length: int) -> list[Piece]:
        """The same as document, first token in it, and number of tokens; documents by their number in the shards."""
        found: list[Piece] = []
        while length:
            epoch, offset = divmod(start, self.num_tokens)
            taken = min(length, self.num_tokens - offset)
            found += self._pieces_of_epoch(epoch, offset, offset + taken)
            start, length = start + taken, length - taken
        return found

    def _pieces_of_epoch(self, epoch: int, start: int, stop: int) -> list[Piece]:
        blocks, documents = self._blocks(epoch), []
        for block in pieces_between(blocks.ends, start, stop):
            order = self._documents(epoch, int(blocks.things[block.document]))
            for piece in pieces_between(order.ends, block.begin, block.begin + block.length):
                documents.append(piece._replace(document=int(order.things[piece.document])))
        return documents

    def _order_blocks(self, epoch: int) -> _Order:
        blocks = self._order(len(self._tokens_of_blocks), epoch, "blocks")
        return _Order(blocks, np.cumsum(self._tokens_of_blocks[blocks]))

    def _order_documents(self, epoch: int, block: int) -> _Order:
        lengths = self._lengths(block)
        documents = self._order(len(lengths), epoch, block)
        return _Order(documents + block * self._block, np.cumsum(lengths[documents]))

    def _order(self, size: int, epoch: int, what: int | str) -> NDArray[np.int64]:
        if not self._shuffle:
            return np.arange(size)
        return permute(np.arange(size), size, derive_key(self._seed, self.shards.manifest.domain, epoch, what))

    def _lengths(self, block: int) -> NDArray[np.int64]:
        """Tokens of a block's documents, 0 for those that are left out."""
        lengths = self.shards.lengths(block * self._block, (block + 1) * self._block)
        return lengths if self._limit is None else np.where(lengths > self._limit, 0, lengths)

    def _sum_blocks(self) -> NDArray[np.int64]:
        sums = []
        for block in range(-(-self.shards.num_documents // self._block)):
            lengths = self._lengths(block)
            sums.append(int(lengths.sum()))
            self.num_left_out += int((lengths == 0).sum())
        return np.asarray(sums, np.int64)
