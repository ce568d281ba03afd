"""`openarctic bench`: how fast and how exact our engine is here, alone or beside llama.cpp."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SUMMARY = "measure speed and accuracy, alone or beside llama.cpp"
DESCRIPTION = """\
Each engine runs in a process of its own on the same file with the same number of threads, in pairs of alternating order.
A pair is rejected when other programs used more than --max-foreign percent of the machine while it ran.

examples:
  openarctic bench decode --model model.gguf
  openarctic bench all --random S --type Q8_0 --against llama.cpp --runs 3 --out results.json
  openarctic bench serve --model model.gguf --concurrency 8 --against llama_cpp.server
  openarctic bench serve --model model.gguf --concurrency 1 --trace chat --against engine
  openarctic bench soak --model model.gguf --streams 256 --minutes 10
  openarctic bench compare before.json after.json
"""
MODEL_EXAMPLE = "a GGUF file or a bundled model's name; may be given several times (default arctic-nano)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A parser for every workload, `all` and `compare`."""
    from openarctic.bench.plan import ALL, WORKLOADS

    commands = parser.add_subparsers(dest="workload", metavar="WORKLOAD", required=True)
    for name, text in {**WORKLOADS, ALL: "every workload"}.items():
        _add_workload(commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + "."), name)
    compare = commands.add_parser("compare", help="two results beside each other", description="Compare two results.")
    compare.add_argument("a", metavar="A.json", help="a result, as --out writes it")
    compare.add_argument("b", metavar="B.json", help="a later one")
    compare.add_argument("--max-loss", type=float, metavar="PERCENT", help="exit with 1 where OpenArctic lost more than this")
    _add_format(compare)
    serve = "servers side by side on the same requests"
    _add_serve(commands.add_parser("serve", help=serve, description=serve[0].upper() + serve[1:] + "."))
    soak = "many streams at our server for minutes: failures, stalls, memory"
    _add_soak(commands.add_parser("soak", help=soak, description=soak[0].upper() + soak[1:] + "."))


def _add_serve(parser: argparse.ArgumentParser) -> None:
    from openarctic.bench.serve_traces import TRACES

    parser.add_argument("--model", default="arctic-nano", metavar="M", help="a GGUF file or a bundled model's name")
    parser.add_argument("--trace", action="append", default=[], choices=tuple(TRACES), help="what is asked (default: all)")
    parser.add_argument("--concurrency", type=int, action="append", metavar="N", help="requests at a time (default 1, 8, 32)")
    parser.add_argument("--rate", type=float, action="append", default=[], metavar="R", help="requests that arrive in a second")
    parser.add_argument("--requests", type=int, default=64, metavar="N", help="of a repetition (default 64)")
    against = "llama_cpp.server, the path of llama.cpp's llama-server, or engine: ours without a server, for 1 stream"
    parser.add_argument("--against", metavar="SERVER", help=against)
    parser.add_argument("--peer-python", default=sys.executable, metavar="FILE", help="a Python that has llama_cpp.server")
    parser.add_argument("--threads", type=int, metavar="N", help="of each server (default: all processors)")
    parser.add_argument("--repetitions", type=int, default=5, metavar="N", help="pairs that must count (default 5)")
    parser.add_argument("--max-foreign", type=float, default=10, metavar="PERCENT", help="what others may use (default 10)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the result as JSON")
    _add_format(parser)


def _add_soak(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="arctic-nano", metavar="M", help="a GGUF file or a bundled model's name")
    parser.add_argument("--streams", type=int, default=256, metavar="N", help="open at a time (default 256)")
    parser.add_argument("--minutes", type=float, default=10.0, metavar="M", help="for how long (default 10)")
    parser.add_argument("--stall", type=float, default=120.0, metavar="S", help="silence that is a stall (default 120 seconds)")
    parser.add_argument("--cache-gb", type=float, default=1.0, metavar="GB", help="the server's, for keys and values (default 1)")
    parser.add_argument("--threads", type=int, metavar="N", help="of the server (default: all processors)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the result as JSON")
    _add_format(parser)


def _add_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("table", "json", "csv", "md"), default="table", help="of the output")


def _add_workload(parser: argparse.ArgumentParser, name: str) -> None:
    from openarctic.bench.plan import PEERS, SHAPES, WORKLOADS

    parser.add_argument("--model", action="append", default=[], metavar="M", help=MODEL_EXAMPLE)
    parser.add_argument("--random", action="append", default=[], choices=SHAPES, help="a hybrid of random weights of this shape")
    parser.add_argument("--type", action="append", default=[], metavar="TYPE", help="of random models (default Q8_0)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where random models are written and kept")
    parser.add_argument("--against", choices=PEERS, help="measure this engine beside ours")
    parser.add_argument("--peer-python", default=sys.executable, metavar="FILE", help="a Python that has the other engine")
    parser.add_argument("--threads", type=int, metavar="N", help="of each engine (default: all processors)")
    parser.add_argument("--repetitions", type=int, default=9, metavar="N", help="pairs that must count in a run (default 9)")
    parser.add_argument("--runs", type=int, default=1, metavar="N", help="how often all of it is repeated (default 1)")
    parser.add_argument("--max-foreign", type=float, default=10, metavar="PERCENT", help="what others may use (default 10)")
    parser.add_argument("--seconds", type=float, default=0.35, metavar="S", help="of a repetition of decode (default 0.35)")
    if name in ("batch", "all"):
        parser.add_argument("--batch", type=int, action="append", metavar="N", help="only this many sequences a step")
    if name in ("long", "all"):
        parser.add_argument("--length", type=int, action="append", metavar="N", help="only this many tokens of context")
    if name in ("experts", "all"):
        parser.add_argument("--experts", type=int, action="append", metavar="N", help="numbers of experts (default 8, 32, 128)")
    if name == "all":
        parser.add_argument("--skip", action="append", default=[], choices=WORKLOADS, help="leave this workload out")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the result as JSON")
    _add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Measure or compare, and print."""
    if args.workload in ("serve", "soak"):
        return (_serve if args.workload == "serve" else _soak)(args)
    return _compare(args) if args.workload == "compare" else _measure(args)


def _serve(args: argparse.Namespace) -> int:
    from openarctic.bench.protocol import Protocol
    from openarctic.bench.serve_traces import TRACES
    from openarctic.bench.serving import BARE, COLUMNS, ServeBench, as_text, measure_serving, rows
    from openarctic.cli import progress
    from openarctic.errors import UserError
    from openarctic.machine import checked_threads

    path = _model(args.model)
    concurrency = tuple(args.concurrency or ([] if args.rate else (1, 8, 32)))
    for name, values in (("requests", [args.requests]), ("repetitions", [args.repetitions]), ("concurrency", concurrency)):
        if any(value < 1 for value in values):
            raise UserError(f"--{name} is {min(values)}, it must be at least 1")
    if any(not rate > 0 for rate in args.rate):
        raise UserError(f"--rate is {min(args.rate):g}, it must be above 0")
    if args.against == BARE and (concurrency != (1,) or args.rate):
        raise UserError("the engine without a server is measured at 1 stream", "give --concurrency 1 and no --rate")
    bench = ServeBench(
        model=path,
        traces=tuple(args.trace or TRACES),
        concurrency=concurrency,
        rates=tuple(args.rate),
        requests=args.requests,
        threads=checked_threads(args.threads),
        protocol=Protocol(args.repetitions, 1, args.max_foreign / 100, warmups=1),
        against=args.against,
        peer_python=args.peer_python,
    )
    report = measure_serving(bench, progress.renew)
    _tell(args, as_text(report), COLUMNS, rows(report))
    return 0


def _tell(args: argparse.Namespace, text: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write the report (as JSON) where it is wanted, and print it."""
    from openarctic.cli import progress
    from openarctic.cli.render import render
    from openarctic.config import write_text

    progress.end()
    if args.out:
        write_text(args.out, text)
    print(text if args.format == "json" else render(columns, rows, args.format), end="")


def _model(name: str, hint: str = "give a .gguf file or arctic-nano") -> Path:
    """The file of that name. Raises MissingError."""
    from openarctic.errors import MissingError
    from openarctic.formats.bundled import model_path

    path = model_path(name)
    if not path.is_file():
        raise MissingError(f"no model named {str(path)!r}", hint)
    return path


def _soak(args: argparse.Namespace) -> int:
    from openarctic.bench.serving import as_text
    from openarctic.bench.soak import COLUMNS, Soak, rows, soak
    from openarctic.cli import progress
    from openarctic.errors import UserError
    from openarctic.machine import checked_threads

    for name in ("streams", "minutes", "stall", "cache_gb"):
        if not getattr(args, name) > 0:
            raise UserError(f"--{name} is {getattr(args, name)}, it must be above 0")
    settings = Soak(
        model=_model(args.model),
        streams=args.streams,
        minutes=args.minutes,
        threads=checked_threads(args.threads),
        stall_s=args.stall,
        cache_gb=args.cache_gb,
    )
    report = soak(settings, progress.renew)
    _tell(args, as_text(report), COLUMNS, rows(report))
    return 0 if report["passed"] else 1


def _measure(args: argparse.Namespace) -> int:
    from openarctic.bench.measure import measure
    from openarctic.cli import progress
    from openarctic.config import write_text

    names, options = _options(args)

    def keep(report: dict[str, Any]) -> None:
        if args.out:
            write_text(args.out, json.dumps(report, ensure_ascii=False, indent=1) + "\n")

    report = measure(names, options, progress.renew, _tell_estimate, keep)
    progress.end()
    keep(report)
    if args.format == "json":
        print(json.dumps(report, ensure_ascii=False))
    else:
        _print_report(report, args.format)
    return 0


def _options(args: argparse.Namespace) -> tuple[list[str], Any]:
    """The workloads, and their checked settings; random models are written. Raises UserError or MissingError."""
    from openarctic.bench.plan import ALL, FIRST_ONLY, WORKLOADS, Options
    from openarctic.bench.protocol import Protocol
    from openarctic.config import cache_folder
    from openarctic.errors import UserError
    from openarctic.machine import checked_threads

    for name in ("repetitions", "runs"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} is {getattr(args, name)}, it must be at least 1")
    if not 0 <= args.max_foreign <= 100:
        raise UserError(f"--max-foreign is {args.max_foreign:g}, it must be 0 to 100")
    if not 0 < args.seconds <= 60:
        raise UserError(f"--seconds is {args.seconds:g}, it must be above 0 and at most 60")
    given: dict[str, Any] = {
        field: tuple(sorted(set(values)))
        for field, option in (("batches", "batch"), ("lengths", "length"), ("experts", "experts"))
        if (values := getattr(args, option, None))
    }
    for field, values in given.items():
        if values[0] < 1:
            raise UserError(f"{field} has {values[0]}, it must be at least 1")
    is_all = args.workload == ALL
    options = Options(
        models=(),
        folder=args.folder or cache_folder() / "bench",
        threads=checked_threads(args.threads),
        protocol=Protocol(args.repetitions, args.runs, args.max_foreign / 100, target_s=args.seconds),
        against=args.against,
        peer_python=args.peer_python,
        expert_type=args.type[0] if args.type else "Q8_0",
        first_only=FIRST_ONLY if is_all else frozenset(),
        **given,
    )
    names = [name for name in WORKLOADS if name not in args.skip] if is_all else [args.workload]
    return names, _with_models(options, args)


def _with_models(options: Any, args: argparse.Namespace) -> Any:
    from dataclasses import replace

    from openarctic.bench.random_models import random_model
    from openarctic.cli import progress
    from openarctic.formats.bundled import model_path

    options.folder.mkdir(parents=True, exist_ok=True)
    wanted = args.model or ([] if args.random else ["arctic-nano"])
    paths = [_model(name, "give a .gguf file, arctic-nano, or --random S") for name in wanted]
    for shape in args.random:
        for type_ in args.type or ["Q8_0"]:
            progress.renew(f"writing {shape}-{type_}")
            paths.append(random_model(options.folder, shape, type_))
    if args.workload != "all":
        return replace(options, models=tuple(paths))
    named = tuple(paths[: len(wanted)])
    return replace(
        options,
        models=tuple(paths),
        load_models=(random_model(options.folder, "G", "Q8_0"),) if args.random else named,
        text_models=tuple(dict.fromkeys((model_path("arctic-nano"), *named))),
    )


def _tell_estimate(seconds: float) -> None:
    print(f"\rthis will take about {_duration(seconds)} if nothing else runs", file=sys.stderr)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"


def _print_report(report: dict[str, Any], form: str) -> None:
    from openarctic.bench.results import COLUMNS, table
    from openarctic.cli.render import render

    if form in ("table", "md"):
        print("\n".join(_head(report)), end="\n\n")
    print(render(COLUMNS, table(report), form), end="")
    for note in report["notes"]:
        print(f"note: {note}", file=sys.stderr)


def _head(report: dict[str, Any]) -> Sequence[str]:
    """The machine, its limits, and the engines."""
    machine, limits = report["machine"], report["limits"]
    bandwidth = ", ".join(f"{n} threads {value / 1e9:.1f} GB/s" for n, value in limits["read_bytes_per_s"].items())
    lines = [
        f"{machine['processor']}, {machine['usable_processors']} processors, commit {machine['commit']}",
        f"reads {limits['buffer_bytes'] / 2**20:.0f} MiB: {bandwidth}",
    ]
    for name, by_threads in limits["operations_per_s"].items():
        for threads, peaks in by_threads.items():
            each = ", ".join(f"{kind} {value / 1e9:.0f}" for kind, value in peaks.items())
            lines.append(f"arithmetic peak, {name}, {threads} threads: {each} GOP/s")
    for name, settings in report["engines"].items():
        detail = settings.get("features") or settings.get("kernels")
        lines.append(f"{name}: {detail}")
    return lines


def _compare(args: argparse.Namespace) -> int:
    from openarctic.bench.compare import COLUMNS, compare_reports, compare_table, read_report, worst_change
    from openarctic.cli.render import render

    rows = compare_reports(read_report(args.a), read_report(args.b))
    if args.format == "json":
        print(json.dumps(rows, ensure_ascii=False))
    else:
        print(render(COLUMNS, compare_table(rows), args.format), end="")
    worst = worst_change(rows, "openarctic")
    is_worse = args.max_loss is not None and worst is not None and worst < 1 - args.max_loss / 100
    return 1 if is_worse else 0
