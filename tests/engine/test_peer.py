"""A real model that nobody here made writes what it writes in llama.cpp (pip install llama-cpp-python; pytest -m peer -s)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from openarctic.copilot.nano import find_base  # noqa: E402
from openarctic.engine import Engine  # noqa: E402
from openarctic.formats import from_gguf, read_gguf  # noqa: E402
from openarctic.model import ArcticConfig, ArcticForCausalLM  # noqa: E402

pytestmark = pytest.mark.peer

TOKENS = 64
PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "To bake a simple loaf of bread, you need",
    "The three laws of motion say that",
    "def fibonacci(n):\n    ",
    "SELECT name, COUNT(*) FROM customers",
    "My favourite season is autumn because",
    "Photosynthesis is the process by which",
    "Dear Sir or Madam,\n\nI am writing to",
    "The difference between a virus and a bacterium is",
    "In 1969, the first humans",
    "A good night's sleep is important because",
    "import numpy as np\n\n",
    "The Arctic Ocean is",
    "Q: What is 12 plus 30?\nA:",
    "The main ingredients of a pizza are",
    "He opened the door and saw",
    "Water boils at",
    "Here is a list of five European countries:\n1.",
    "Dense and sparse layers of a neural network",
]


@pytest.fixture(scope="module")
def peer() -> Iterator[object]:
    llama_cpp = pytest.importorskip("llama_cpp")
    model = llama_cpp.Llama(str(find_base()), n_ctx=256, n_threads=2, logits_all=True, verbose=False)
    yield model
    model.close()


def peer_greedy(peer: object, prompt: Sequence[int], end: int | None) -> tuple[list[int], list[np.ndarray]]:
    """Tokens and the logits that each was chosen from."""
    peer.reset()  # type: ignore[attr-defined]
    peer.eval(list(prompt))  # type: ignore[attr-defined]
    tokens: list[int] = []
    rows: list[np.ndarray] = []
    while len(tokens) < TOKENS:
        rows.append(np.array(peer.scores[peer.n_tokens - 1]))  # type: ignore[attr-defined]
        token = int(rows[-1].argmax())
        if token == end:
            break
        tokens.append(token)
        peer.eval([token])  # type: ignore[attr-defined]
    return tokens, rows


def test_greedy_text_is_that_of_llama_cpp(peer: object) -> None:
    file = read_gguf(find_base())
    engine = Engine(file, threads=2)
    tokenizer = engine.tokenizer
    assert tokenizer is not None
    config, state = from_gguf(file)
    model = ArcticForCausalLM(ArcticConfig.from_dict(config.to_dict()))
    model.load_state_dict({n: torch.from_numpy(np.array(v)) for n, v in state.items()}, strict=False)
    model.eval()
    same = 0
    for text in PROMPTS:
        prompt = tokenizer.encode(text)
        mine = engine.generate(prompt, max_tokens=TOKENS)[0].ids
        theirs, rows = peer_greedy(peer, prompt, tokenizer.eos_id)
        if mine == theirs:
            same += 1
            continue
        at = next(i for i in range(TOKENS) if mine[i : i + 1] != theirs[i : i + 1])
        ids = [*prompt, *mine[:at]]
        with torch.no_grad():
            exact = model(torch.tensor([ids])).logits[0, -1].numpy()
        first, second = np.sort(exact)[-2:][::-1]
        errors = [np.abs(logits[: len(exact)] - exact).max() for logits in (engine.logits(ids)[-1], rows[at])]
        print(f"{text!r}: differs at token {at}, gap {first - second:.3f}, errors {errors[0]:.3f} and {errors[1]:.3f}")
        assert first - second < min(errors), text
    print(f"{same} of {len(PROMPTS)} texts are the same to the last token")
