"""What do candidates of one request gain by sharing what they have written alike (`engine/strand.py`)?

arctic-nano writes sixteen candidates for each of ten questions to the bundled sample, as `ask` has it do: once as one request,
and once as sixteen requests of one candidate that are submitted together. Those share the prompt's whole cached pages, but each
computes what is left of the prompt (less than a page) and all that it writes. Both come to the same texts. Forms alternate;
reported are medians over `--repetitions` of the ten questions together, and their paired ratio.

    python benchmarks/bench_candidates.py
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable

from bench_ask import QUESTIONS

from openarctic.bench.machine import commit, processor
from openarctic.copilot.ask import AskOptions, Copilot
from openarctic.copilot.sample import database_or_sample
from openarctic.engine import Engine, load
from openarctic.generator import Sampling

Asked = tuple[str, str | None, list[Sampling]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, help="of the engine (default: all processors)")
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=7)
    options = parser.parse_args()
    engine = load(threads=options.threads)
    asked = [prompt_of(engine, question, options.candidates) for question in QUESTIONS]
    counter = Counter(engine)
    forms: dict[str, Callable[[], list[list[str]]]] = {
        "together": lambda: [together(engine, *each) for each in asked],
        "alone": lambda: [alone(engine, *each) for each in asked],
    }
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    texts, tokens = {}, {}
    for repetition in range(options.repetitions + 1):
        for name, form in forms.items():
            counter.tokens, start = 0, time.perf_counter()
            texts[name] = form()
            taken, tokens[name] = time.perf_counter() - start, counter.tokens
            if repetition:  # the first warms up
                seconds[name].append(taken)
    assert texts["together"] == texts["alone"]
    ratios = [slow / fast for slow, fast in zip(seconds["alone"], seconds["together"], strict=True)]
    report = {
        "questions": len(asked),
        "candidates": options.candidates,
        "distinct_texts": statistics.mean(len(set(each)) for each in texts["together"]),
        "tokens_computed": tokens,
        "seconds": {name: round(statistics.median(taken), 3) for name, taken in seconds.items()},
        "ratio": round(statistics.median(ratios), 3),
        "range": [round(min(ratios), 3), round(max(ratios), 3)],
        "repetitions": options.repetitions,
        "commit": commit(),
        "processor": processor(),
        "load_average": os.getloadavg()[0],
    }
    print(json.dumps(report, indent=1))


class Counter:
    """Counts the tokens that the model computes."""

    def __init__(self, engine: Engine) -> None:
        self.tokens = 0
        self.step = engine._loop.step
        engine._loop.step = self.count

    def count(self, tokens, *others):  # type: ignore[no-untyped-def]
        """One step."""
        self.tokens += len(tokens)
        return self.step(tokens, *others)


def prompt_of(engine: Engine, question: str, candidates: int) -> Asked:
    """What `ask` gives the engine for the question."""
    found: list[Asked] = []

    class Spy:
        """The engine, but that prompts are kept."""

        def __getattr__(self, name):  # type: ignore[no-untyped-def]
            return getattr(engine, name)

        def generate(self, prompt, *, sampling, grammar, **others):  # type: ignore[no-untyped-def]
            """Keeps the prompt."""
            found.append((prompt, grammar, list(sampling)))
            return engine.generate(prompt, sampling=sampling, grammar=grammar, **others)

    with Copilot(database_or_sample(None), Spy()) as copilot:
        copilot.ask(question, AskOptions(candidates=candidates))
    return found[0]


def together(engine: Engine, prompt: str, grammar: str | None, sampling: list[Sampling]) -> list[str]:
    """One request."""
    return [c.text for c in engine.generate(prompt, sampling=sampling, grammar=grammar, max_tokens=200)]


def alone(engine: Engine, prompt: str, grammar: str | None, sampling: list[Sampling]) -> list[str]:
    """A request for each candidate, all at once."""
    streams = [engine.submit(prompt, sampling=one, grammar=grammar, max_tokens=200) for one in sampling]
    return [stream.result()[0].text for stream in streams]


if __name__ == "__main__":
    main()
