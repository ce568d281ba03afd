"""The embedded engine: one GGUF file, one native model, and whatever many callers ask of it at once."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from openarctic.engine.loader import OnProgress, load_model
from openarctic.engine.loop import Loop
from openarctic.engine.pages import PagePool
from openarctic.engine.prefix_store import PrefixStore, fingerprint
from openarctic.engine.request import MAX_CANDIDATES, Limits, Request, Stream, check_request, token_ids, whole
from openarctic.engine.runner import Runner
from openarctic.engine.scheduler import Scheduler
from openarctic.engine.speculator import Speculator
from openarctic.errors import CapacityError, UserError
from openarctic.formats import GGUFFile, HybridConfig, config_from_gguf, read_gguf
from openarctic.formats.gguf import CHECKSUM_KEY
from openarctic.formats.names import check_tensors
from openarctic.generator import GREEDY, Completion, Constraint, OnText, Sampling
from openarctic.native._native import PAGE_SIZE, available_kernels
from openarctic.tokenizer import Tokenizer, has_vocabulary

if TYPE_CHECKING:
    from openarctic.engine.constraint import Follower

STEP_TOKENS = 512  # of one step at most: a prompt is computed in such chunks
CACHE_BYTES = 1 << 30
ASKS_KEY = "openarctic.asks_questions"


class Engine:
    """Runs one model for any number of callers and threads.

    `cache_bytes` is the budget for keys and values of all requests together, and for prompts that are kept in case they come
    again (default 1 GiB); `cache_type` is how they are held: f16, f32 or q8_0. `context` limits a request's tokens, prompt and
    output (default: what the model was made for, as far as the budget holds it). `max_sequences` texts are written at a time,
    others wait. `speculation` "suffix" guesses tokens from texts that were written before, `draft_model` is a smaller GGUF file
    with the same vocabulary that guesses them (and takes a quarter of the budget); the tokens stay the same. `tokenizer` takes
    the place of the file's. `on_progress` is called with bytes packed and in all while weights are loaded;
    `repack_cache` keeps packed weights in a file for the next process (docs/engine.md; default: from 768 MiB on).
    `prefix_folder` is where `keep_prefix` keeps prompts for the next process.
    """

    def __init__(
        self,
        file: GGUFFile,
        *,
        threads: int | None = None,
        name: str = "",
        context: int | None = None,
        cache_bytes: int = CACHE_BYTES,
        cache_type: str = "f16",
        max_sequences: int = MAX_CANDIDATES,
        speculation: str | None = None,
        draft_model: str | Path | None = None,
        prefix_folder: str | Path | None = None,
        tokenizer: Tokenizer | None = None,
        kernels: str = "",
        on_progress: OnProgress | None = None,
        repack_cache: bool | None = None,
    ) -> None:
        self.config = config_from_gguf(file)
        check_tensors(self.config, file)
        if tokenizer is None and has_vocabulary(file.metadata):
            tokenizer = Tokenizer.from_gguf_metadata(file.metadata)
        self.tokenizer = tokenizer
        # What it writes for a question: short SQL or a plan, if it was made for that; any other model chats.
        self.target_form = _target_form(file)
        # Whether it was also trained to write the question for a query.
        self.asks_questions = bool(file.metadata.get(ASKS_KEY))
        # Tells the very weights; empty in files that do not keep it.
        self.fingerprint = str(file.metadata.get(CHECKSUM_KEY, ""))
        self.name = name or str(file.metadata.get("general.name", file.paths[0].stem))
        whole("cache_bytes", cache_bytes, 1)
        whole("max_sequences", max_sequences, 1, STEP_TOKENS)
        if kernels and kernels not in available_kernels():
            raise UserError(f"kernels is {kernels!r}, this processor has {', '.join(available_kernels())}")
        drafts = _speculator(speculation, draft_model, file, cache_bytes // 4, threads, kernels)
        pages = _count_pages(self.config, cache_bytes - (cache_bytes // 4 if draft_model else 0), cache_type)
        self.context = self._checked_context(context, pages)
        self._model = load_model(
            file,
            self.config,
            pages=pages,
            threads=threads,
            cache_type=cache_type,
            kernels=kernels,
            on_progress=on_progress,
            repack_cache=repack_cache,
        )
        made_by = fingerprint(file, cache_type, self.kernels) if prefix_folder else ""
        self._prefixes = PrefixStore(prefix_folder, made_by, self._model.page_bytes) if prefix_folder else None
        self._runner = Runner(self._model, self.config.vocab_size)
        scheduler = Scheduler(
            PagePool(pages, PAGE_SIZE), context=self.context, max_step_tokens=STEP_TOKENS, max_sequences=max_sequences
        )
        self._loop = Loop(
            self._runner.run,
            self._model.copy_page,
            scheduler,
            Limits(self.config.vocab_size, self.context, self.tokenizer),
            drafts,
        )

    @classmethod
    def load(cls, path: str | Path, threads: int | None = None, **options: Any) -> Engine:
        """From a GGUF file. Raises MissingError, UserError (unsupported) or CorruptError."""
        return cls(read_gguf(path), threads=threads, **options)

    @property
    def kernels(self) -> str:
        """Which instruction set runs: avx512, avx2, neon or plain."""
        return str(self._model.kernels)

    @cached_property
    def _constraints(self) -> Any:
        from openarctic.engine.constraint import Constraints

        return Constraints(self._text())

    def _text(self) -> Tokenizer:
        if self.tokenizer is None:
            raise UserError("this model has no tokenizer", "give token ids instead of text")
        return self.tokenizer

    def follower(self, grammar: str | Constraint) -> Follower:
        """A grammar, compiled, for any number of requests. That takes up to seconds, so threads that must not wait have it done
        by others. Raises UserError when it is wrong."""
        follower: Follower = self._constraints.start(grammar)
        return follower

    def count_tokens(self, text: str) -> int:
        """Length of `text` in tokens."""
        return len(self._text().encode(text))

    def _ids(self, prompt: str | Sequence[int]) -> list[int]:
        if isinstance(prompt, str):
            return self._text().encode(prompt, add_special=True)
        return token_ids(prompt, self.config.vocab_size)

    # Requests

    def submit(
        self,
        prompt: str | Sequence[int],
        *,
        sampling: Sequence[Sampling] | Sampling = (GREEDY,),
        max_tokens: int = 256,
        grammar: str | Constraint | Follower | None = None,
        forces_tokens: bool = True,
        priority: int = 0,
        tenant: str = "",
        timeout: float | None = None,
        prompt_logprobs_start: int = 0,
    ) -> Stream:
        """Starts `n` completions for each of `sampling` and returns at once; the stream gives their tokens as they come.

        The prompt is computed once, and what it shares with prompts of the same `tenant` not even that, unless its log
        probabilities are wanted: then from position `prompt_logprobs_start` on, and the entries up to it are None. `grammar` is
        Lark text, a Constraint, or what `follower` made of one; `forces_tokens` appends what it leaves no choice about without a
        step of its own (False is slower and gives the same). Smaller `priority` goes first. After `timeout` seconds what is not
        finished ends with the reason deadline.

        Raises UserError, or CapacityError when the prompt is too long.
        """
        settings = _settings(sampling)
        ids = self._ids(prompt)
        check_request(self._loop.limits, ids, settings, max_tokens)
        if timeout is not None and (not isinstance(timeout, int | float) or not timeout > 0):
            raise UserError(f"timeout is {timeout!r}, it must be above 0 seconds")
        if not isinstance(tenant, str):
            raise UserError(f"tenant is {tenant!r}, it must be a text")
        request = Request(
            ids=ids,
            settings=settings,
            max_tokens=int(max_tokens),
            follower=self.follower(grammar) if isinstance(grammar, str | Constraint) else grammar and grammar.copy(),
            forces_tokens=forces_tokens,
            priority=whole("priority", priority, -(2**31), 2**31),
            tenant=tenant,
            deadline=None if timeout is None else time.monotonic() + timeout,
            prompt_logprobs_start=whole("prompt_logprobs_start", prompt_logprobs_start, 0, len(ids) - 1),
        )
        return self._loop.submit(request)

    def generate(self, prompt: str | Sequence[int], *, on_text: OnText | None = None, **options: Any) -> list[Completion]:
        """`submit` and its result: `n` completions for each of `sampling`, in order. `on_text` hears the texts as they come.

        Raises what `submit` raises, and UserError where `on_text` cannot know yet which candidates `best_of` will keep.
        """
        settings = _settings(options.get("sampling", GREEDY))
        if on_text and any(s.num_candidates > s.n for s in settings):
            raise UserError(
                "best_of is more than n, such completions cannot be streamed", "ask for no stream, or leave out best_of"
            )
        stream = self.submit(prompt, **options)
        stream.is_heard = on_text is not None
        if on_text:
            for event in stream:
                if event.text:
                    on_text(event.index, event.text)
        return stream.result()

    def continuation_logprobs(self, prompts: Sequence[str], continuation: str, *, tenant: str = "") -> list[float]:
        """How probable the model finds that `continuation`, and nothing more, follows each of `prompts`: natural logarithms, a
        mean over its tokens and the end token. What prompts share is computed once.

        Raises what `submit` raises, and UserError for a model that has no tokenizer or no end token.
        """
        tokenizer = self._text()
        end = tokenizer.eos_id
        if end is None:
            raise UserError("the model has no end token, so nothing can be said of whole texts")
        scored = [*tokenizer.encode(continuation), end]
        streams = []
        for prompt in prompts:
            ids = self._ids(prompt)
            sampling = Sampling(prompt_logprobs=0, ignore_eos=True)
            start = len(ids) - 1
            stream = self.submit([*ids, *scored], sampling=sampling, max_tokens=1, tenant=tenant, prompt_logprobs_start=start)
            streams.append(stream)
        found = (stream.result()[0].prompt_logprobs or [] for stream in streams)
        return [sum(t.logprob for t in known[-len(scored) :] if t is not None) / len(scored) for known in found]

    def keep_prefix(self, prompt: str | Sequence[int], *, tenant: str = "") -> int:
        """Makes sure that prompts which begin with this one need only their rest computed; gives the number of tokens kept.

        Whole pages are kept. With a `prefix_folder` they come from there, or are written to it when they had to be computed.
        """
        ids = self._ids(prompt)
        ids = ids[: min(len(ids), self.context - 1) // PAGE_SIZE * PAGE_SIZE]
        if not ids:
            return 0
        if self._num_known(ids, tenant) < len(ids) and not self._restore(ids, tenant):
            self.generate([*ids, ids[-1]], sampling=Sampling(ignore_eos=True), max_tokens=1, tenant=tenant)
            self._save(ids, tenant)
        return self._num_known(ids, tenant)

    def _num_known(self, ids: list[int], tenant: str) -> int:
        """How many of the tokens are cached."""
        with self._loop.busy:
            return len(self._loop.scheduler.pool.match([*ids, 0], tenant).pages) * PAGE_SIZE

    def _restore(self, ids: list[int], tenant: str) -> bool:
        """From disk into the cache, if it is there and there is room."""
        stored = self._prefixes.load(ids, tenant) if self._prefixes else None
        if stored is None or len(stored) * PAGE_SIZE != len(ids):
            return False
        pool = self._loop.scheduler.pool
        with self._loop.busy:
            pages = list(pool.match([*ids, 0], tenant).pages)
            pool.hold(pages)
            for at in range(len(pages), len(stored)):
                free = pool.try_allocate(1)
                if free is None:
                    break
                self._model.write_page(free[0], stored[at])
                content = ids[at * PAGE_SIZE : (at + 1) * PAGE_SIZE]
                pages.append(pool.insert(free[0], content, after=pages[-1] if pages else None, salt=tenant))
            pool.release(pages)
        return len(pages) == len(stored)

    def _save(self, ids: list[int], tenant: str) -> None:
        if self._prefixes is None:
            return
        with self._loop.busy:
            pages = self._loop.scheduler.pool.match([*ids, 0], tenant).pages
            if len(pages) * PAGE_SIZE < len(ids):
                return
            content = np.empty((len(pages), self._model.page_bytes), np.uint8)
            for page, out in zip(pages, content, strict=True):
                self._model.read_page(page, out)
        self._prefixes.save(ids, content, tenant)

    # How busy it is

    @property
    def num_running(self) -> int:
        """Texts that are being written; what several candidates have written alike is one."""
        return self._loop.scheduler.num_running

    @property
    def num_waiting(self) -> int:
        """Texts that wait for their turn."""
        return self._loop.scheduler.num_waiting

    @property
    def cache_usage(self) -> float:
        """Share of the pages that requests hold."""
        pool = self._loop.scheduler.pool
        return pool.held / pool.count

    # The model itself

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits [len(ids), vocab] of every position of one sequence. Raises CapacityError when it is too long."""
        if not 0 < len(ids) <= self.context:
            raise CapacityError(f"the sequence has {len(ids)} tokens, it must be 1 to {self.context}")
        pool, parts = self._loop.scheduler.pool, []
        with self._loop.busy:
            pages = pool.try_allocate(pool.pages_for(len(ids)))
            if pages is None:
                raise CapacityError(f"{len(ids)} tokens need {pool.pages_for(len(ids))} pages, {pool.available} are free", "wait")
            try:
                table = np.array([pages], np.int32)
                for start in range(0, len(ids), STEP_TOKENS):
                    chunk = list(ids[start : start + STEP_TOKENS])
                    count = len(chunk)
                    parts.append(self.step(chunk, [0] * count, range(start, start + count), table, range(count)).copy())
            finally:
                pool.release(pages)
        return np.concatenate(parts)

    def step(
        self,
        tokens: Sequence[int],
        sequences: Sequence[int],
        positions: Iterable[int],
        tables: NDArray[np.int32],
        wanted: Iterable[int],
    ) -> NDArray[np.float32]:
        """Runs tokens, each after what its sequence holds; gives [wanted, vocab] logits, valid until the next step.

        `sequences` are rows of `tables`, which hold their pages in order (pages of `page_size` positions). Several tokens of one
        sequence are allowed, in the order of their positions. For one caller at a time, and not beside requests.
        """
        self._loop.check_process()
        return self._runner.run(tokens, sequences, positions, tables, wanted).logits

    def _checked_context(self, context: int | None, pages: int) -> int:
        largest = self.config.max_position_embeddings
        if context is None:
            return min(largest, pages * PAGE_SIZE)
        whole("context, which the model limits,", context, 1, largest)
        if context > pages * PAGE_SIZE:
            raise UserError(f"context is {context}, cache_bytes holds {pages * PAGE_SIZE} tokens", "raise cache_bytes")
        return context


def _target_form(file: GGUFFile) -> str | None:
    """Files of the recipe `nano` say how many steps made them; the first ones did not say their form."""
    form = file.metadata.get("openarctic.target_form")
    if form is None and "openarctic.training_steps" in file.metadata:
        form = "sql"
    return None if form is None else str(form)


def _settings(sampling: Any) -> list[Sampling]:
    settings = [sampling] if isinstance(sampling, Sampling) else sampling
    if isinstance(settings, str) or not isinstance(settings, Iterable):
        raise UserError(f"sampling is {sampling!r}, it must be a Sampling, or several")
    settings = list(settings)
    for each in settings:
        if not isinstance(each, Sampling):
            raise UserError(f"sampling holds {each!r}, it must hold Sampling objects")
    return settings


def _count_pages(config: HybridConfig, cache_bytes: int, cache_type: str, name: str = "cache_bytes") -> int:
    """Pages of keys and values that a budget holds. Raises UserError."""
    widths = {"f32": 4.0, "f16": 2.0, "q8_0": 1.0625}
    if cache_type not in widths:
        raise UserError(f"cache_type is {cache_type!r}, it must be {', '.join(widths)}")
    if cache_type == "q8_0" and config.head_dim % 32:
        raise UserError(f"cache_type q8_0 needs heads whose width is a multiple of 32, this model's are {config.head_dim} wide")
    page = int(PAGE_SIZE * config.num_hidden_layers * config.kv_width * 2 * widths[cache_type])
    if cache_bytes < 2 * page:
        raise UserError(f"{name} is {cache_bytes}, two pages of {PAGE_SIZE} tokens need {2 * page}")
    return min(cache_bytes // page, 2**31 - 1)


def _speculator(
    name: str | None, draft_model: str | Path | None, target: GGUFFile, cache_bytes: int, threads: int | None, kernels: str
) -> Speculator | None:
    if name is not None and draft_model is not None:
        raise UserError("speculation and draft_model are both given", "choose one of them")
    if draft_model is not None:
        from openarctic.engine.model_drafter import ModelDrafter, load_draft_model

        file = read_gguf(draft_model)
        pages = _count_pages(config_from_gguf(file), cache_bytes, "f16", "the draft model's quarter of cache_bytes")
        model = load_draft_model(file, target, num_pages=pages, threads=threads, kernels=kernels)
        return Speculator(ModelDrafter(model), is_costly=True)
    if name is None:
        return None
    if name != "suffix":
        raise UserError(f"speculation is {name!r}, it must be suffix")
    from openarctic.engine.drafts import SuffixDrafter

    return Speculator(SuffixDrafter())
