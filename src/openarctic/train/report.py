"""One self-contained HTML page of a run: its numbers, curves, and how its experts were used. Inline SVG, no script, no network.

Every text that comes from a run is escaped. No torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

from openarctic.config import read_object
from openarctic.errors import UserError
from openarctic.train.runlog import read_events, read_log

Record = dict[str, Any]
Points = list[tuple[float, float]]

MAX_POINTS = 400  # of a curve; longer ones are drawn as means of equally many steps
MAX_COLUMNS = 48  # of a heat map
MAX_LAYERS = 6  # whose experts are shown over time
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 560, 200, 56, 24, 10

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2433; --soft: #667085; --line: #d9dee8; --page: #ffffff; --card: #f7f8fa;
  --c0: #2563eb; --c1: #d9480f; --c2: #2b8a3e; --c3: #9c36b5; --c4: #0b7285; --c5: #a61e4d; --heat: #1d4ed8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9f0; --soft: #98a2b3; --line: #344054; --page: #11151d; --card: #1a202c;
  --c0: #74a7ff; --c1: #ff9f6b; --c2: #69db7c; --c3: #da9cf0; --c4: #66d9e8; --c5: #faa2c1; --heat: #8ab4ff; } }
body { margin: 2rem auto; max-width: 76rem; padding: 0 1rem; background: var(--page); color: var(--ink);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.4rem } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)); gap: 1rem }
figure { margin: 0; padding: .75rem; background: var(--card); border-radius: .5rem }
figcaption { font-weight: 600; margin-bottom: .25rem } figcaption small { font-weight: 400; color: var(--soft) }
svg { width: 100%; height: auto; display: block } svg text { font: 11px system-ui, sans-serif; fill: var(--soft) }
table { border-collapse: collapse } td, th { padding: .15rem 1rem .15rem 0; text-align: left; vertical-align: top }
pre { overflow: auto; background: var(--card); padding: .75rem; border-radius: .5rem; font-size: 12px }
.key { color: var(--soft) } .axis { stroke: var(--line); stroke-width: 1 } .faint { opacity: .35 }
"""


@dataclass(frozen=True, slots=True)
class Line:
    """One curve of a chart."""

    name: str
    points: Points
    is_faint: bool = False


def write_page(run: Path, path: Path) -> Path:
    """Write the report of a run. Raises MissingError, CorruptError or UserError for a folder without a sound log."""
    from openarctic.config import write_text

    write_text(path, page(run))
    return path


def page(run: Path) -> str:
    """The report of a run as HTML."""
    log, events = read_log(run), read_events(run)
    if not log:
        raise UserError(f"the run in {run} has no step yet", "wait for its first one")
    config = read_object(run / "config.json") if (run / "config.json").is_file() else {}
    estimate = read_object(run / "estimate.json") if (run / "estimate.json").is_file() else {}
    title = escape(run.resolve().name)
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>",
        _table(_summary(log, events, estimate)),
        '<h2>Curves</h2><div class="grid">',
        *_charts(log),
        "</div>",
        *_experts(log),
        _events(events),
        f"<h2>Configuration</h2><pre>{escape(json.dumps(config, indent=2, ensure_ascii=False))}</pre></body></html>",
    ]
    return "\n".join(part for part in parts if part)


def summary(log: Sequence[Record]) -> dict[str, Any]:
    """The last numbers of a run: step, tokens, seconds, smoothed loss, validation, rate."""
    last = log[-1]
    recent = [loss for _, loss in _points(log, "loss")][-20:]
    validation: dict[str, float] = {}
    for record in log:
        validation |= {name: loss for name, loss in record.get("validation", {}).items() if _is_number(loss)}
    return {
        "steps": last["step"],
        "tokens": last.get("tokens", 0),
        "seconds": last.get("seconds", 0.0),
        "loss": sum(recent) / len(recent) if recent else math.nan,
        "validation": validation,
        "tokens_per_s": last.get("tokens", 0) / last["seconds"] if last.get("seconds") else 0.0,
    }


def _summary(log: Sequence[Record], events: Sequence[Record], estimate: Mapping[str, Any]) -> list[tuple[str, str]]:
    told, last = summary(log), log[-1]
    rows = [
        ("steps", f"{told['steps']:,}"),
        ("tokens", f"{told['tokens']:,}"),
        ("training time", f"{told['seconds'] / 60:,.1f} min"),
        ("loss, mean of the last steps", f"{told['loss']:.4f}"),
        *((f"validation loss, {name}", f"{loss:.4f}") for name, loss in told["validation"].items()),
        ("tokens a second", f"{told['tokens_per_s']:,.0f}"),
    ]
    if shares := [r["peak_share"] for r in log if "peak_share" in r]:
        rows.append(("share of the measured GEMM peak", f"{sum(shares) / len(shares):.0%}"))
    if "memory_bytes" in last:
        rows.append(("memory at most", f"{last['memory_bytes'] / 1e9:.2f} GB"))
    if estimate:
        seconds = estimate["seconds_per_step"] * told["steps"]
        rows.append(("estimated before, for these steps", f"{seconds / 60:,.1f} min, {estimate['memory_bytes'] / 1e9:.2f} GB"))
    rollbacks = sum(event["event"] == "rollback" for event in events)
    return [*rows, ("rollbacks", str(rollbacks))]


def _table(rows: Iterable[tuple[str, str]]) -> str:
    cells = "".join(f'<tr><td class="key">{escape(key)}</td><td>{escape(value)}</td></tr>' for key, value in rows)
    return f"<table>{cells}</table>"


def _charts(log: Sequence[Record]) -> list[str]:
    loss = _points(log, "loss")
    lines = [Line("loss", loss, is_faint=True), Line("smoothed", _smoothed(loss))]
    for name in dict.fromkeys(name for record in log for name in record.get("validation", {})):
        held_out = [(r["step"], r.get("validation", {}).get(name)) for r in log]
        lines.append(Line(f"validation {name}", [(float(step), float(loss)) for step, loss in held_out if _is_number(loss)]))
    charts = [_chart("Loss", "cross-entropy, nats", lines)]
    single = (
        ("accuracy", "Accuracy", "share of targets that were the likeliest"),
        ("lr", "Learning rate", ""),
        ("grad_norm", "Gradient norm", "before clipping"),
        ("tokens_per_s", "Tokens a second", ""),
        ("peak_share", "Share of GEMM peak", "FLOPs of the model's products over the measured rate"),
        ("aux_loss", "Balancing loss", "sum over layers"),
        ("z_loss", "Router z-loss", "sum over layers"),
    )
    charts += [_chart(title, told, [Line(title, _points(log, key))]) for key, title, told in single if any(_points(log, key))]
    by_layer = (
        ("entropy", "Router entropy", "nats, mean over tokens"),
        ("dropped", "Dropped share", "of a layer's choices"),
        ("dead_experts", "Dead experts", "without a token for 100 steps"),
    )
    for key, title, told in by_layer:
        layers = max((len(r.get(key, ())) for r in log), default=0)
        shown = [_layer_points(log, key, layer) for layer in range(layers)]
        if any(value for points in shown for _, value in points):
            numbers = _layer_numbers(log, layers)
            charts.append(_chart(title, told, [Line(f"layer {n}", own) for n, own in zip(numbers, shown, strict=True)]))
    return charts


def _layer_numbers(log: Sequence[Record], count: int) -> Sequence[int]:
    """The model's numbers of its layers with experts; of an older log, which has none, their order."""
    numbers: Sequence[int] = next((r["moe_layers"] for r in reversed(log) if "moe_layers" in r), range(count))
    return numbers if len(numbers) == count else range(count)


def _points(log: Sequence[Record], key: str) -> Points:
    return [(float(r["step"]), float(r[key])) for r in log if _is_number(r.get(key))]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _layer_points(log: Sequence[Record], key: str, layer: int) -> Points:
    """Of a layer's number in each record that has one."""
    return [(float(r["step"]), float(r[key][layer])) for r in log if len(r.get(key, ())) > layer and _is_number(r[key][layer])]


def _smoothed(points: Points) -> Points:
    """Exponential means over about a twentieth of the curve, corrected at its beginning."""
    keep = 1 - 1 / max(2.0, len(points) / 20)
    mean, weight, out = 0.0, 0.0, []
    for step, value in points:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        out.append((step, mean / weight))
    return out


def _thinned(points: Points) -> Points:
    size = math.ceil(len(points) / MAX_POINTS)
    if size <= 1:
        return points
    buckets = [points[i : i + size] for i in range(0, len(points), size)]
    return [(b[-1][0], sum(value for _, value in b) / len(b)) for b in buckets]


def _chart(title: str, told: str, lines: Sequence[Line]) -> str:
    """A figure with axes, at most five labels each way."""
    finite = [replace(line, points=[(x, y) for x, y in line.points if math.isfinite(y)]) for line in lines]
    drawn = [replace(line, points=_thinned(line.points)) for line in finite if line.points]
    if not drawn:
        return ""
    steps = [x for line in drawn for x, _ in line.points]
    values = [y for line in drawn for _, y in line.points]
    low_x, high_x, ticks = min(steps), max(steps), _ticks(min(values), max(values))
    low_y, high_y = min(ticks[0], min(values)), max(ticks[-1], max(values))

    def place(x: float, y: float) -> str:
        across = LEFT + (WIDTH - LEFT - 8) * ((x - low_x) / (high_x - low_x) if high_x > low_x else 0.5)
        return f"{across:.1f},{_height(y, low_y, high_y):.1f}"

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for tick in ticks:
        y = _height(tick, low_y, high_y)
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - 8}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 6}">step {_number(low_x)}</text>')
    parts.append(f'<text x="{WIDTH - 8}" y="{HEIGHT - 6}" text-anchor="end">{_number(high_x)}</text>')
    for i, line in enumerate(drawn):
        colour = f"var(--c{(i - drawn[0].is_faint) % 6 if i else 0})"
        points = " ".join(place(x, y) for x, y in line.points)
        faint = ' class="faint"' if line.is_faint else ""
        if len(line.points) == 1:
            across, down = points.split(",")
            parts.append(f'<circle{faint} cx="{across}" cy="{down}" r="3" fill="{colour}"/>')
        else:
            parts.append(f'<polyline{faint} fill="none" stroke="{colour}" stroke-width="1.5" points="{points}"/>')
    parts.append("</svg>")
    return (
        f"<figure><figcaption>{escape(title)} <small>{escape(told)}</small></figcaption>{''.join(parts)}{_legend(drawn)}</figure>"
    )


def _height(y: float, low: float, high: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * ((y - low) / (high - low) if high > low else 0.5)


def _legend(lines: Sequence[Line]) -> str:
    if len(lines) < 2:
        return ""
    names = [
        f'<span style="color:var(--c{(i - lines[0].is_faint) % 6 if i else 0})">&#9632;</span> {escape(line.name)}'
        for i, line in enumerate(lines)
    ]
    return f"<small>{' &nbsp; '.join(names)}</small>"


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers that span the values, three to six of them."""
    if high <= low:
        return [low]
    size = 10.0 ** math.floor(math.log10(high - low))
    step = next(s for s in (size / 5, size / 2, size, 2 * size) if (high - low) / s <= 5)
    first = math.floor(low / step)
    return [n * step for n in range(first, math.ceil(high / step - 1e-9) + 1)]


def _number(value: float) -> str:
    if value and (abs(value) >= 1e6 or abs(value) < 1e-3):
        return f"{value:.2g}"
    return f"{value:,.4f}".rstrip("0").rstrip(".")


def _experts(log: Sequence[Record]) -> list[str]:
    """Heat maps: all layers at the end, and chosen layers over time."""
    routed = [r for r in log if r.get("expert_load")]
    if not routed:
        return []
    layers, experts = len(routed[-1]["expert_load"]), len(routed[-1]["expert_load"][0])
    numbers, columns = _layer_numbers(routed, layers), _columns(routed)
    end = columns[-1]
    parts = [
        '<h2>Expert load</h2><p class="key">The share of a layer\'s tokens that each expert gets. Colour: none at 0, half at the '
        "even share, full at twice the even share and above. A row without colour is an expert that learns nothing.</p>",
        '<div class="grid">',
        _heat("All layers, at the end", f"rows: layers {', '.join(map(str, numbers))}, columns: experts", end, 1 / experts),
    ]
    for layer in sorted({round(i * (layers - 1) / max(1, min(MAX_LAYERS, layers) - 1)) for i in range(min(MAX_LAYERS, layers))}):
        over_time = [[column[layer][e] for column in columns] for e in range(experts)]
        parts.append(
            _heat(f"Layer {numbers[layer]}", "rows: experts, columns: the run from left to right", over_time, 1 / experts)
        )
    return [*parts, "</div>"]


def _columns(routed: Sequence[Record]) -> list[list[list[float]]]:
    """[columns][layers][experts]: means over equally many steps."""
    size = math.ceil(len(routed) / MAX_COLUMNS)
    columns = []
    for start in range(0, len(routed), size):
        loads = [r["expert_load"] for r in routed[start : start + size]]
        columns.append([[sum(cell) / len(loads) for cell in zip(*rows, strict=True)] for rows in zip(*loads, strict=True)])
    return columns


def _heat(title: str, told: str, rows: Sequence[Sequence[float]], even: float) -> str:
    height, width = len(rows), len(rows[0])
    cells = [
        f'<rect x="{x}" y="{y}" width="1" height="1" fill-opacity="{min(1.0, value / even / 2):.2f}"/>'
        for y, row in enumerate(rows)
        for x, value in enumerate(row)
        if value > 0
    ]
    shape = f'viewBox="0 0 {width} {height}" preserveAspectRatio="none" style="height:{max(60, min(260, 14 * height))}px"'
    picture = f'<svg {shape} role="img" aria-label="{escape(title)}" fill="var(--heat)">{"".join(cells)}</svg>'
    return f"<figure><figcaption>{escape(title)} <small>{escape(told)}</small></figcaption>{picture}</figure>"


def _events(events: Sequence[Record]) -> str:
    if not events:
        return ""
    rows = []
    for event in events:
        told = ", ".join(f"{key} {value}" for key, value in event.items() if key not in ("event", "time"))
        rows.append((f"{event.get('time', '')} {event.get('event', '')}", told))
    return f"<h2>Events</h2>{_table(rows)}"
