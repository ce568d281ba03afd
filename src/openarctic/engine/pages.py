"""Page accounting of the key-value cache: which page is free, which tables hold it, and which token prefix it keeps.

A page is a number, 0 to count - 1; the keys and values themselves stand in the native model. A *table* is a sequence's list of
pages in order of position. Every page is at each moment exactly one of
    free     nobody needs its content;
    held     by one table or more (`num_holders`);
    cached   by no table, but its content is a known prefix of tokens and may be held again.

What is known stands in a prefix tree: a node is a full page with the exact `page_size` tokens in it, below the node of the tokens
before them, so nothing rests on hashes. Roots are named by a `salt`, and nothing is found across salts. The content of a page in
the tree never changes.

The one trick: a table that holds a page of the tree holds all pages above it too (`insert` sees to that), and tables are released
from their end. So pages come to be cached children first, and the order in which they came is at once the order of last use and
one in which the first is always a leaf: eviction takes the first.

No clock, no I/O, no threads. Every operation is O(1) a page, but for the search among siblings of a partly matching page, which
is a bisection.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from openarctic.errors import CapacityError

Tokens = tuple[int, ...]


@dataclass(slots=True, eq=False)
class _Node:
    """A full page of the tree; a root has no page and no tokens."""

    salt: str
    parent: _Node | None = None
    page: int | None = None
    tokens: Tokens = ()
    children: dict[Tokens, _Node] = field(default_factory=dict)
    order: list[Tokens] = field(default_factory=list)  # keys of `children`, sorted: the closest relative is a neighbour

    def add(self, child: _Node) -> None:
        self.children[child.tokens] = child
        insort(self.order, child.tokens)

    def remove(self, child: _Node) -> None:
        del self.children[child.tokens]
        del self.order[bisect_left(self.order, child.tokens)]


@dataclass(frozen=True, slots=True)
class PartialMatch:
    """The first `num_tokens` positions of `page` are the next ones; to be copied, for the rest of the page differs."""

    page: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Match:
    """What the cache knows of a prompt: full pages, and perhaps a part of one more."""

    pages: list[int]
    partial: PartialMatch | None = None


@dataclass(slots=True, eq=False)
class Pin:
    """Pages that are not evicted; `is_broken` when they were given up because a sequence could not have gone on otherwise."""

    pages: list[int]
    is_broken: bool = False


class PagePool:
    """`count` pages of `page_size` positions; at most `max_pinned` of them can be pinned (default: a quarter)."""

    def __init__(self, count: int, page_size: int, *, max_pinned: int | None = None) -> None:
        if count < 1 or page_size < 1:
            raise ValueError(f"{count} pages of {page_size} positions")
        self.count, self.page_size = count, page_size
        self.max_pinned = count // 4 if max_pinned is None else max_pinned
        self.hit_tokens = 0  # positions that sequences took from the cache, counted by the scheduler
        self.evictions = 0
        self._free = list(range(count - 1, -1, -1))
        self._holders = [0] * count
        self._num_held = 0
        self._nodes: list[_Node | None] = [None] * count
        self._roots: dict[str, _Node] = {}
        self._evictable: OrderedDict[int, None] = OrderedDict()  # cached and not pinned, the least recently used first
        self._pins: list[Pin] = []
        self._num_pins: Counter[int] = Counter()

    # Counts

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def held(self) -> int:
        return self._num_held

    @property
    def cached(self) -> int:
        """Pages that no table holds and that stand in the tree, pinned ones included."""
        return self.count - self.free - self.held

    @property
    def pinned(self) -> int:
        return len(self._num_pins)

    @property
    def available(self) -> int:
        """Pages that `allocate` can give: free ones and those that may be evicted."""
        return len(self._free) + len(self._evictable)

    def num_holders(self, page: int) -> int:
        """Tables that hold the page."""
        return self._holders[page]

    def is_known(self, page: int) -> bool:
        """Whether the page stands in the prefix tree, so that it must not be written."""
        return self._nodes[page] is not None

    def pages_for(self, length: int) -> int:
        """Pages that hold `length` positions."""
        return -(-length // self.page_size)

    # Tables

    def try_allocate(self, num: int) -> list[int] | None:
        """`num` pages for one table, all or none; evicts what was not used for longest."""
        if num > self.available:
            return None
        while len(self._free) < num:
            self._evict()
        pages = [self._free.pop() for _ in range(num)]
        for page in pages:
            self._holders[page] = 1
        self._num_held += num
        return pages

    def hold(self, pages: Iterable[int]) -> None:
        """One more table holds these held or cached pages."""
        for page in pages:
            if not self._holders[page]:
                assert self._nodes[page] is not None, f"page {page} is free"
                self._num_held += 1
                self._evictable.pop(page, None)
            self._holders[page] += 1

    def release(self, pages: Sequence[int]) -> None:
        """One table less holds these pages, the end of the table first. What the tree knows stays as cache."""
        for page in reversed(pages):
            assert self._holders[page] > 0, f"page {page} is not held"
            self._holders[page] -= 1
            if not self._holders[page]:
                self._num_held -= 1
                self._retire(page)

    def _retire(self, page: int) -> None:
        """No table holds the page any more."""
        if self._nodes[page] is None:
            self._free.append(page)
        elif page not in self._num_pins:
            self._evictable[page] = None

    def _evict(self) -> None:
        page, _ = self._evictable.popitem(last=False)
        node = self._nodes[page]
        assert node is not None and node.parent is not None and not node.children
        node.parent.remove(node)
        if node.parent.page is None and not node.parent.children:
            del self._roots[node.salt]
        self._nodes[page] = None
        self._free.append(page)
        self.evictions += 1

    # The prefix tree

    def match(self, tokens: Sequence[int], salt: str = "", *, limit: int | None = None, table: Sequence[int] = ()) -> Match:
        """The longest known prefix of `tokens`, at most `limit` of them and never all: the last must be computed for its logits.

        With `table`, pages of the tree that hold the first tokens, the search goes on from there, and `pages` are those after.
        Holds nothing: that is for `hold`, before the next page is allocated.
        """
        size = self.page_size
        limit = len(tokens) - 1 if limit is None else min(limit, len(tokens) - 1)
        node = self._nodes[table[-1]] if table else self._roots.get(salt)
        assert node is not None or not table, "the table's pages are not in the tree"
        pages: list[int] = []
        at = len(table) * size
        while node is not None and at + size <= limit:
            child = node.children.get(tuple(tokens[at : at + size]))
            if child is None or child.page is None:
                break
            pages.append(child.page)
            node, at = child, at + size
        return Match(pages, self._closest(node, tuple(tokens[at : min(at + size, limit)])))

    def _closest(self, node: _Node | None, tokens: Tokens) -> PartialMatch | None:
        """The child that shares most of `tokens`: among sorted keys it stands beside the place where `tokens` would."""
        if node is None or not tokens:
            return None
        at = bisect_left(node.order, tokens)
        near = [(common_prefix(key, tokens), key) for key in node.order[max(at - 1, 0) : at + 1]]
        num, key = max(near, default=(0, ()))
        page = node.children[key].page if num else None
        return None if page is None else PartialMatch(page, num)

    def touch(self, page: int) -> None:
        """The content of `page` was of use; tables hold what is above it in the tree, so children still come first."""
        if page in self._evictable:
            self._evictable.move_to_end(page)

    def insert(self, page: int, tokens: Sequence[int], *, after: int | None, salt: str = "") -> int:
        """The held `page` is full of computed `tokens`, which follow those of page `after` (None: they are the first).

        Returns the page that stands for them from now on, and that the table holds now: `page`, or the one that was known already
        (then `page` is released).
        """
        key = tuple(tokens)
        assert len(key) == self.page_size and self._holders[page] and self._nodes[page] is None
        parent = self._roots.setdefault(salt, _Node(salt)) if after is None else self._nodes[after]
        assert parent is not None and (after is None or self._holders[after]), f"page {after} is not a held page of the tree"
        known = parent.children.get(key)
        if known is not None and known.page is not None:
            self.hold([known.page])
            self.release([page])
            return known.page
        node = _Node(salt, parent, page, key)
        parent.add(node)
        self._nodes[page] = node
        return page

    # Pins

    def pin(self, tokens: Sequence[int], salt: str = "") -> Pin:
        """Keeps the known full pages of a prefix of `tokens` from eviction until `unpin`.

        Raises CapacityError, and pins nothing, where more than `max_pinned` pages would be pinned.
        """
        pages = self.match([*tokens, 0], salt).pages  # with one token more, all of `tokens` may match
        total = self.pinned + sum(page not in self._num_pins for page in pages)
        if total > self.max_pinned:
            raise CapacityError(
                f"{total} pages would be pinned, the limit is {self.max_pinned}", "unpin another prefix, or allow more memory"
            )
        pin = Pin(pages)
        self._pins.append(pin)
        for page in pages:
            self._num_pins[page] += 1
            self._evictable.pop(page, None)
        return pin

    def unpin(self, pin: Pin) -> None:
        """The pages may be evicted again; nothing happens if the pin is broken or gone."""
        if pin not in self._pins:
            return
        self._pins.remove(pin)
        for page in reversed(pin.pages):
            self._num_pins[page] -= 1
            if not self._num_pins[page]:
                del self._num_pins[page]
                if not self._holders[page]:
                    self._retire(page)

    def try_break_pin(self) -> bool:
        """Gives up the oldest pin; False if there is none."""
        if not self._pins:
            return False
        self._pins[0].is_broken = True
        self.unpin(self._pins[0])
        return True

    # Invariants

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Raises AssertionError unless the books are right, `tables` being all that hold pages."""
        holders = Counter(page for table in tables for page in table)
        assert [holders[page] for page in range(self.count)] == self._holders, "holders are not the tables that hold a page"
        assert self._num_held == len(+holders)
        free, evictable, pinned = set(self._free), set(self._evictable), set(self._num_pins)
        assert len(free) == len(self._free), "a page is free twice"
        for page in range(self.count):
            is_cached = page in evictable or (page in pinned and not holders[page])
            assert (page in free) + (holders[page] > 0) + is_cached == 1, f"page {page} is not in exactly one place"
            assert not is_cached or self.is_known(page), f"page {page} is cached and unknown"
            assert not (page in free and self.is_known(page)), f"page {page} is free and known"
        assert len(pinned) <= self.max_pinned and not pinned & evictable
        assert all(self.is_known(page) for page in pinned)
        self._check_tree()

    def _check_tree(self) -> None:
        place = {page: at for at, page in enumerate(self._evictable)}
        seen = 0
        stack = list(self._roots.values())
        assert all(root.children for root in stack), "an empty root"
        while stack:
            node = stack.pop()
            assert node.order == sorted(node.children)
            for key, child in node.children.items():
                assert child.page is not None and child.parent is node and child.tokens == key and child.salt == node.salt
                assert self._nodes[child.page] is child and len(key) == self.page_size
                if node.page is not None:
                    assert not self._holders[child.page] or self._holders[node.page], "a held page below one that is not"
                    assert node.page not in place or place[child.page] < place[node.page], "a parent before its child"
                seen += 1
                stack.append(child)
        assert seen == sum(node is not None for node in self._nodes), "a node outside the tree"


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common prefix."""
    num = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        num += 1
    return num
