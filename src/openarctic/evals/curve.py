"""Risk against coverage: when only the surest share of questions is answered, how many of the answers are wrong?

Told by El-Yaniv and Wiener, "On the Foundations of Noise-free Selective Classification" (JMLR 2010). One number of the whole
curve is its area, the mean error over all coverages (smaller is better).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby

from openarctic.copilot.charts.svg import svg
from openarctic.copilot.charts.vegalite import Dot, Spec, scatter_spec
from openarctic.copilot.confidence import CurvePoint

COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
MAX_POINTS = 200
SHOWN = 0.7  # the coverage that is told where only one is

Judged = tuple[float, bool]  # (confidence, whether the answer is right)


def risk_coverage(judged: Sequence[Judged]) -> tuple[CurvePoint, ...]:
    """The curve, from full coverage down: equal confidences are answered together. Long curves are thinned evenly."""
    points = []
    answered = wrong = 0
    for confidence, same in groupby(sorted(judged, key=lambda j: -j[0]), key=lambda j: j[0]):
        for _, is_right in same:
            answered += 1
            wrong += not is_right
        points.append(CurvePoint(confidence, answered / len(judged), wrong / answered))
    points.reverse()
    step = max(1, -(-len(points) // MAX_POINTS))
    return tuple(points[::step])


def accuracy_at(coverage: float, judged: Sequence[Judged]) -> float:
    """The share of right answers among the surest `coverage` of the questions (at least one); equal confidences count in part."""
    wanted = left = max(1, round(coverage * len(judged)))
    right = 0.0
    for _, same in groupby(sorted(judged, key=lambda j: -j[0]), key=lambda j: j[0]):
        found = [is_right for _, is_right in same]
        taken = min(left, len(found))
        right += sum(found) * taken / len(found)
        left -= taken
        if not left:
            break
    return right / wanted if judged else 0.0


def area(judged: Sequence[Judged]) -> float:
    """The mean error over the coverages 1/n, 2/n, ... 1."""
    count = len(judged)
    return sum(1 - accuracy_at(k / count, judged) for k in range(1, count + 1)) / count if count else 0.0


def calibration_error(judged: Sequence[Judged], parts: int = 10) -> float:
    """How far confidence and accuracy are apart: the mean distance over `parts` groups of equal size, by confidence."""
    ordered = sorted(judged)
    size = max(1, -(-len(ordered) // parts))
    groups = [ordered[i : i + size] for i in range(0, len(ordered), size)]
    gaps = [abs(sum(c for c, _ in g) - sum(right for _, right in g)) for g in groups]
    return sum(gaps) / len(ordered) if ordered else 0.0


def curve_rows(judged: Sequence[Judged]) -> Iterator[tuple[float, int, float, float]]:
    """(coverage, answered, accuracy, least confidence) at round coverages."""
    ordered = sorted((c for c, _ in judged), reverse=True)
    for coverage in COVERAGES:
        answered = round(coverage * len(judged))
        if answered:
            yield coverage, answered, accuracy_at(coverage, judged), ordered[answered - 1]


def curve_chart(judged: Sequence[Judged]) -> Spec:
    """The curve as a Vega-Lite spec: percent of wrong answers over percent answered."""
    dots = [Dot(100 * p.coverage, 100 * p.error) for p in risk_coverage(judged)]
    return scatter_spec(
        "Risk and coverage",
        dots,
        x="questions answered (%)",
        y="answers that are wrong (%)",
        subtitle=f"{len(judged)} questions, the surest answered first",
        description="How many of the answers are wrong when only the surest questions are answered.",
    )


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#1c2733;background:#fff}"
    "table{border-collapse:collapse;width:100%;margin:1rem 0}"
    "td,th{padding:.3rem .6rem;text-align:right;border-bottom:1px solid #d5dce3}"
    "figure{margin:1rem 0}svg{max-width:100%;height:auto}li{margin:.6rem 0}pre{background:#f3f5f7;padding:.6rem;overflow-x:auto}"
    "@media(prefers-color-scheme:dark){body{color:#e6ebf0;background:#12181f}td,th{border-color:#2c3844}pre{background:#1b242e}}"
)


def curve_page(title: str, told: Sequence[str], judged: Sequence[Judged], wrong: Sequence[tuple[str, str, str]]) -> str:
    """One HTML page that needs nothing beside it: what was `told`, the curve as picture and table, and the wrong answers, the
    surest first, as (question, SQL, expected SQL)."""
    rows = "".join(
        f"<tr><td>{100 * c:.0f} %</td><td>{n}</td><td>{100 * a:.1f} %</td><td>{least:.2f}</td></tr>"
        for c, n, a, least in curve_rows(judged)
    )
    heads = "".join(f"<th>{name}</th>" for name in ("coverage", "answered", "right of these", "confidence at least"))
    failures = "".join(
        f"<li>{escape(question)}<pre>{escape(sql or 'no SQL')}</pre>expected:<pre>{escape(gold)}</pre></li>"
        for question, sql, gold in wrong
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
        + "".join(f"<p>{escape(line)}</p>" for line in told)
        + f"<figure>{svg(curve_chart(judged))}</figure><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
        + (f"<h2>Wrong answers</h2><ol>{failures}</ol>" if wrong else "")
        + "</body></html>\n"
    )
