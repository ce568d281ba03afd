"""`openarctic generate`: text from a model."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openarctic.engine import Engine
    from openarctic.generator import Completion, Constraint, Sampling, TokenLogprob
    from openarctic.tokenizer import Tokenizer

SUMMARY = "complete a text with a model"
DESCRIPTION = """\
Streams what the model writes after PROMPT. Without --temperature it takes the most probable token each time; with it, it draws,
and --top-k, --top-p and --min-p leave out what is improbable. --grammar, --json-schema, --regex and --choice make every output
follow a form, whatever the model would like to write.

examples:
  openarctic generate "The capital of France is" --model SmolLM2-135M-Instruct.Q4_1.gguf --max-tokens 20
  openarctic generate "Once upon a time" --temperature 0.8 --min-p 0.1 --n 3 --stop "."
  openarctic generate "Sentiment of 'I love it':" --choice positive --choice negative --logprobs 2 --format json
  openarctic generate "A date:" --regex "[0-9]{4}-[0-9]{2}-[0-9]{2}"
"""
EPILOG = """\
--format json prints one object:
  status             "ok"; on failure "error", with error {type, message, hint}
  model              its name
  usage              prompt_tokens, completion_tokens (of all that was returned)
  choices            a list, --n long: index, text, token_ids, logprob (sum over the tokens, among those that the form allowed),
                     finish_reason (stop, length, grammar), stop_reason (the stop text or token id, else null), logprobs
  prompt_logprobs    with --prompt-logprobs: one entry a token of the prompt, the first of them null
logprobs has one entry a token: token, id, logprob, rank (1 is the most probable), top_logprobs [{token, id, logprob}].
Log probabilities are natural, and the model's own: before form, penalties and temperature.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.epilog = EPILOG
    parser.add_argument("prompt", help="the text to go on from; - reads it from standard input")
    parser.add_argument("--model", metavar="NAME_OR_PATH", help="model (default: the bundled arctic-nano)")
    parser.add_argument("--max-tokens", type=int, default=128, metavar="N", help="tokens at most (default 128)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all that this process may use)")
    parser.add_argument("--speculation", choices=("suffix",), help="guess tokens from the text so far; the text stays the same")
    parser.add_argument("--draft-model", metavar="PATH", help="a smaller GGUF with the same vocabulary that guesses them instead")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="text (default) or one JSON object, see below")
    _add_choice_of_tokens(parser.add_argument_group("which token comes next"))
    _add_ends(parser.add_argument_group("where the text ends, how many there are, and what is told about them"))
    forms = parser.add_argument_group("the form of the output").add_mutually_exclusive_group()
    forms.add_argument("--grammar", type=Path, metavar="FILE", help="Lark grammar")
    forms.add_argument("--json-schema", type=Path, metavar="FILE", help="JSON Schema")
    forms.add_argument("--regex", metavar="PATTERN", help="regular expression of the whole output")
    forms.add_argument("--choice", action="append", metavar="TEXT", help="one of these texts (once for each)")


def _add_choice_of_tokens(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 is greedy (default), 1 the model's own")
    group.add_argument("--top-k", type=int, default=0, metavar="N", help="only the N most probable (default 0: all)")
    group.add_argument("--top-p", type=float, default=1.0, metavar="P", help="only the most probable that make up P (default 1)")
    group.add_argument("--min-p", type=float, default=0.0, metavar="P", help="at least P times the most probable's (default 0)")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed gives the same text (default 0)")
    group.add_argument(
        "--repetition-penalty", type=float, default=1.0, metavar="X", help="above 1: fewer tokens of prompt and output again"
    )
    group.add_argument(
        "--presence-penalty", type=float, default=0.0, metavar="X", help="-2 to 2, taken from logits of what was written"
    )
    group.add_argument("--frequency-penalty", type=float, default=0.0, metavar="X", help="-2 to 2, for each time it was written")
    group.add_argument("--logit-bias", action="append", default=[], metavar="ID=X", help="added to a token's logit, -100 to 100")


def _add_ends(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--stop", action="append", default=[], metavar="TEXT", help="ends before this text (once for each)")
    group.add_argument("--stop-token-id", action="append", default=[], type=int, metavar="ID", help="ends at this token")
    group.add_argument("--ignore-eos", action="store_true", help="go on after the model's own end")
    group.add_argument("--n", type=int, default=1, metavar="N", help="number of texts (default 1); needs a temperature")
    group.add_argument("--best-of", type=int, metavar="N", help="make N, return the --n most probable, by the mean over tokens")
    group.add_argument("--logprobs", type=int, metavar="N", help="log probabilities, with the N most probable tokens; needs json")
    group.add_argument("--prompt-logprobs", type=int, metavar="N", help="the same for the prompt; needs json")


def run(args: argparse.Namespace) -> int:
    """Generate; stream where there is one text."""
    from openarctic.cli import progress
    from openarctic.cli.ask import read_question
    from openarctic.engine import load
    from openarctic.errors import UserError

    if args.max_tokens < 1:
        raise UserError(f"--max-tokens is {args.max_tokens}, it must be at least 1")
    for name in ("logprobs", "prompt_logprobs"):
        if args.format == "text" and getattr(args, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} is not shown in text", "add --format json")
    sampling, constraint = _sampling(args), _constraint(args)
    engine = load(
        args.model,
        threads=args.threads,
        speculation=args.speculation,
        draft_model=args.draft_model,
        on_progress=progress.loading(args.model or "the model"),
    )
    streams = args.format == "text" and sampling.num_candidates == 1
    prompt = read_question(args.prompt)
    completions = engine.generate(
        prompt,
        sampling=sampling,
        max_tokens=args.max_tokens,
        grammar=constraint,
        on_text=_write if streams else None,
    )
    if args.format == "json":
        print(json.dumps(_report(engine, prompt, completions), ensure_ascii=False))
    else:
        _print_texts(completions, is_streamed=streams)
    return 0


def _sampling(args: argparse.Namespace) -> Sampling:
    from openarctic.generator import Sampling

    return Sampling(
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        min_p=args.min_p,
        repetition_penalty=args.repetition_penalty,
        presence_penalty=args.presence_penalty,
        frequency_penalty=args.frequency_penalty,
        logit_bias=dict(map(_bias, args.logit_bias)),
        seed=args.seed,
        stop=args.stop,
        stop_token_ids=args.stop_token_id,
        ignore_eos=args.ignore_eos,
        n=args.n,
        best_of=args.best_of,
        logprobs=args.logprobs,
        prompt_logprobs=args.prompt_logprobs,
    )


def _bias(text: str) -> tuple[int, float]:
    from openarctic.errors import UserError

    try:
        id, bias = text.split("=")
        return int(id), float(bias)
    except ValueError as error:
        raise UserError(f"--logit-bias is {text!r}, it must be a token id and a number, as 42=-5") from error


def _constraint(args: argparse.Namespace) -> Constraint | None:
    from openarctic.generator import Constraint

    if args.grammar:
        return Constraint(grammar=_read(args.grammar, "grammar"))
    if args.json_schema:
        return Constraint(json=_read(args.json_schema, "JSON schema"))
    if args.regex is not None:
        return Constraint(regex=args.regex)
    return Constraint(choice=args.choice) if args.choice else None


def _read(path: Path, what: str) -> str:
    from openarctic.errors import MissingError, UserError

    if not path.exists() or path.is_dir():
        raise MissingError(f"no {what} at {path}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text") from error


def _write(_: int, text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _print_texts(completions: list[Completion], is_streamed: bool) -> None:
    """The texts, one after the other; between them a line on standard error."""
    for number, completion in enumerate(completions, 1):
        if len(completions) > 1:
            sys.stdout.flush()
            print(f"--- {number} of {len(completions)} ---", file=sys.stderr)
        print("" if is_streamed else completion.text)
        if completion.finish_reason == "length":
            print(f"stopped after {len(completion.ids)} tokens; --max-tokens changes that", file=sys.stderr)
        elif completion.finish_reason == "grammar":
            print("stopped: the grammar became too complex to follow", file=sys.stderr)


def _report(engine: Engine, prompt: str, completions: list[Completion]) -> dict[str, Any]:
    """The object that the help text describes."""
    tokenizer = engine.tokenizer
    assert tokenizer is not None  # it has encoded the prompt
    return {
        "status": "ok",
        "model": engine.name,
        "usage": {
            "prompt_tokens": len(tokenizer.encode(prompt, add_special=True)),
            "completion_tokens": sum(len(c.ids) for c in completions),
        },
        "choices": [
            {
                "index": index,
                "text": c.text,
                "token_ids": c.ids,
                "logprob": c.logprob,
                "finish_reason": c.finish_reason,
                "stop_reason": c.stop_reason,
                "logprobs": _scores(c.logprobs, tokenizer),
            }
            for index, c in enumerate(completions)
        ],
        "prompt_logprobs": _scores(completions[0].prompt_logprobs, tokenizer),
        "error": None,
    }


def _scores(scores: Sequence[TokenLogprob | None] | None, tokenizer: Tokenizer) -> list[dict[str, Any] | None] | None:
    return None if scores is None else [_score(s, tokenizer) if s else None for s in scores]


def _score(score: TokenLogprob, tokenizer: Tokenizer) -> dict[str, Any]:
    top = [{"token": tokenizer.token_text(id), "id": id, "logprob": logprob} for id, logprob in score.top]
    text = tokenizer.token_text(score.id)
    return {"token": text, "id": score.id, "logprob": score.logprob, "rank": score.rank, "top_logprobs": top}
