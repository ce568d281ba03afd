"""A counted suffix trie of token texts, limited in depth, that grows a token at a time and drafts what may come next.

A node stands for a string of at most `depth` tokens; its count is how often that string occurs in all texts, occurrences at a
text's end included. Two tricks keep it quick:

- a string that occurs once is a leaf: it keeps its place in the text instead of children, and so grows with the text for nothing.
  It is expanded, a level at a time, when it occurs again.
- the strings that end a text and occur elsewhere too are always its suffixes of length 1 to some L: `_Text.ends` holds their
  nodes. A new token moves each of them one level down (amortised: a suffix leaves the list as a leaf, or at the depth limit), and
  they are exactly the matches that a draft starts from, so nothing is searched.

Suffix decoding is specified in spec/arctic-family.md section 10.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

DEPTH = 64
NODE_BYTES, TOKEN_BYTES = 250, 40
FLOOR = 0.1  # a draft ends before its probability falls below


class Draft(NamedTuple):
    """Tokens that may follow, and for each the estimated probability that it and all before it are right."""

    tokens: list[int]
    probabilities: list[float]
    match_length: int = 0  # tokens of context that the draft rests on

    @property
    def score(self) -> float:
        """The expected number of accepted tokens, as the trie estimates it."""
        return sum(self.probabilities)


NO_DRAFT = Draft([], [])


class SuffixTree:
    """The trie of several texts; each is named by an id of the caller's."""

    def __init__(self, depth: int = DEPTH) -> None:
        self.depth = depth
        self.num_nodes = 0
        self.num_tokens = 0
        self._root = _Node(0)
        self._root.children = {}
        self._texts: dict[int, _Text] = {}

    @property
    def num_bytes(self) -> int:
        """Memory, by the measured size of a node and of a token."""
        return self.num_nodes * NODE_BYTES + self.num_tokens * TOKEN_BYTES

    def __contains__(self, text_id: int) -> bool:
        return text_id in self._texts

    def length(self, text_id: int) -> int:
        """Tokens of a text."""
        return len(self._texts[text_id].tokens)

    def append(self, text_id: int, tokens: Sequence[int]) -> None:
        """Tokens at the end of a text; the first ones start it."""
        text = self._texts.get(text_id)
        if text is None:
            text = self._texts[text_id] = _Text([self._root])
        for token in tokens:
            self._append(text, token)

    def count(self, tokens: Sequence[int]) -> int:
        """How often the string occurs. At most `depth` tokens."""
        node = self._root
        for i, token in enumerate(tokens):
            if node.children is None:  # one occurrence: it goes on in its text
                rest = node.text.tokens[node.at : node.at + len(tokens) - i]
                return int(rest == list(tokens[i:]))
            if token not in node.children:
                return 0
            node = node.children[token]
        return node.count

    def draft(self, text_id: int, limit: int, alpha: float = 1.0, offset: float = 0.0, floor: float = FLOOR) -> Draft:
        """What may follow the text.

        For every suffix that occurs elsewhere, the most frequent continuation of at most alpha * its length + offset tokens; of
        these the one with the highest score, at equality that of the longer suffix.
        """
        text = self._texts.get(text_id)
        best, best_score = NO_DRAFT, 0.0
        for length in range(len(text.ends) - 1 if text else 0, 0, -1):
            assert text is not None
            node = text.ends[length]
            budget = min(limit, int(alpha * length + offset), self.depth - length)
            if node.best is None or budget * (node.best.count / node.count) <= best_score:  # nothing better can come of it
                continue
            draft = _follow(node, budget, floor, length)
            if (score := draft.score) > best_score:
                best, best_score = draft, score
        return best

    def remove(self, text_id: int) -> None:
        """The trie as if the text had never been there. Texts that are not there are none."""
        text = self._texts.pop(text_id, None)
        if text is None:
            return
        self.num_tokens -= len(text.tokens)
        for start in range(len(text.tokens)):
            self._remove(text.tokens[start : start + self.depth])

    def _append(self, text: _Text, token: int) -> None:
        text.tokens.append(token)
        self.num_tokens += 1
        end = len(text.tokens)
        ends = [self._root]
        for node in text.ends:
            assert node.children is not None
            child = node.children.get(token)
            if child is None:
                child = node.children[token] = _Node(token, text, end)
                self.num_nodes += 1
            else:
                if child.children is None:
                    self._expand(child, len(ends))
                child.count += 1
                ends.append(child)
            best = node.best
            if best is not child and (best is None or (child.count, -child.token) > (best.count, -best.token)):
                node.best = child
        del ends[self.depth :]  # what has reached the limit goes no deeper
        text.ends = ends

    def _expand(self, leaf: _Node, depth: int) -> None:
        """A leaf becomes a node with the one child that its text goes on with."""
        leaf.children = {}
        if leaf.at < len(leaf.text.tokens):
            if depth < self.depth:
                token = leaf.text.tokens[leaf.at]
                leaf.best = leaf.children[token] = _Node(token, leaf.text, leaf.at + 1)
                self.num_nodes += 1
        elif depth < self.depth:  # another text ends here, and grows from here
            assert len(leaf.text.ends) == depth
            leaf.text.ends.append(leaf)
        leaf.text = NO_TEXT

    def _remove(self, tokens: list[int]) -> None:
        """One occurrence less of every beginning of `tokens`."""
        node, path = self._root, []
        for token in tokens:
            if node.children is None:
                break
            child = node.children[token]
            child.count -= 1
            if child.count == 0:
                del node.children[token]
                self.num_nodes -= _size(child)
            else:
                path.append(child)
            if node.best is child and node is not self._root:  # nobody asks for the root's
                node.best = max(node.children.values(), key=_rank, default=None)
            if child.count == 0:
                break
            node = child
        for node in path:
            if node.count == 1:
                self._collapse(node)
                break

    def _collapse(self, node: _Node) -> None:
        """What occurs once becomes a leaf again, unless it ends with a text or at the depth limit."""
        levels, bottom = 0, node
        while bottom.children:
            (bottom,) = bottom.children.values()
            levels += 1
        if bottom.children is None:
            node.children, node.best, node.text, node.at = None, None, bottom.text, bottom.at - levels
            self.num_nodes -= levels


class _Text:
    """The tokens so far, and the nodes of its suffixes of length 0, 1, ... that occur elsewhere too."""

    __slots__ = ("ends", "tokens")

    def __init__(self, ends: list[_Node]) -> None:
        self.tokens: list[int] = []
        self.ends = ends


NO_TEXT = _Text([])


class _Node:
    """A string, by its last token. A leaf has no `children`: the string goes on at `text.tokens[at]`."""

    __slots__ = ("at", "best", "children", "count", "text", "token")

    def __init__(self, token: int, text: _Text = NO_TEXT, at: int = 0) -> None:
        self.token = token
        self.count = 1
        self.children: dict[int, _Node] | None = None
        self.best: _Node | None = None  # the child with the highest count, at equality the lower token
        self.text = text
        self.at = at


def _rank(node: _Node) -> tuple[int, int]:
    return node.count, -node.token


def _size(node: _Node) -> int:
    """Nodes of a chain."""
    return 1 + sum(_size(child) for child in (node.children or {}).values())


def _follow(node: _Node, budget: int, floor: float, match_length: int) -> Draft:
    """The most frequent continuation of a node."""
    tokens: list[int] = []
    probabilities: list[float] = []
    p = 1.0
    while len(tokens) < budget:
        if node.children is None:
            rest = node.text.tokens[node.at : node.at + budget - len(tokens)]
            tokens += rest
            probabilities += [p] * len(rest)
            break
        if node.best is None:
            break
        p *= node.best.count / node.count
        if p < floor:
            break
        node = node.best
        tokens.append(node.token)
        probabilities.append(p)
    return Draft(tokens, probabilities, match_length)
