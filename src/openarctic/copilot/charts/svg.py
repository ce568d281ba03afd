"""A chart as SVG: self-contained, no script; every text escaped; light and dark by the viewer's preference; title and description
for screen readers."""

from __future__ import annotations

from html import escape

from openarctic.copilot.charts.scene import Box, Scene, Spot, Stroke, Words, lay_out
from openarctic.copilot.charts.vegalite import Spec, read_spec

# name: (light, dark)
PALETTE = {
    "page": ("#ffffff", "#11151d"),
    "ink": ("#1d2433", "#e6e9f0"),
    "soft": ("#5b6577", "#98a2b3"),
    "line": ("#e1e5ec", "#2b3444"),
    "c0": ("#2563eb", "#74a7ff"),
    "c1": ("#d9480f", "#ff9f6b"),
    "c2": ("#2b8a3e", "#69db7c"),
    "c3": ("#9c36b5", "#da9cf0"),
    "c4": ("#0b7285", "#66d9e8"),
    "c5": ("#a61e4d", "#faa2c1"),
}


FONT = "system-ui, 'Segoe UI', 'Noto Sans', 'DejaVu Sans', sans-serif"


def _style() -> str:
    """The dark colours. The light ones are attributes, which every viewer knows, also those without style sheets."""
    rules = (
        f".openarctic-chart .{prefix}-{name}{{{part}:{dark}}}"
        for name, (_, dark) in PALETTE.items()
        for prefix, part in (("f", "fill"), ("s", "stroke"))
    )
    return f"@media (prefers-color-scheme:dark){{{''.join(rules)}}}"


STYLE = _style()


def svg(spec: Spec, width: float = 720.0, name: str = "chart") -> str:
    """Draw a validated spec; `name` makes the ids of several charts on one page differ.

    Raises UserError for a spec that is not in the closed set.
    """
    return svg_of(lay_out(read_spec(spec), width), name)


def svg_of(scene: Scene, name: str = "chart") -> str:
    """A laid out scene as one `svg` element."""
    ids = f"{escape(name)}-title", f"{escape(name)}-desc"
    size = f'width="{scene.width:.0f}" height="{scene.height:.0f}" viewBox="0 0 {scene.width:.0f} {scene.height:.0f}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="openarctic-chart" {size}',
        f'font-family="{escape(FONT)}" role="img" aria-labelledby="{ids[0]} {ids[1]}">',
        f'<title id="{ids[0]}">{_text(scene.title)}</title><desc id="{ids[1]}">{_text(scene.description)}</desc>',
        f"<style>{STYLE}</style>",
        f'<rect width="100%" height="100%" {_filled("page")}/>',
        *(_shape(shape) for shape in scene.shapes),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _filled(colour: str) -> str:
    return f'class="f-{colour}" fill="{PALETTE[colour][0]}"'


def _shape(shape: Box | Stroke | Spot | Words) -> str:
    if isinstance(shape, Box):
        place = f'x="{shape.x:.1f}" y="{shape.y:.1f}" width="{shape.width:.1f}" height="{shape.height:.1f}"'
        return f'<rect {place} rx="1.5" {_filled(shape.colour)}>{_hint(shape.hint)}</rect>'
    if isinstance(shape, Stroke):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in shape.points)
        style = f'fill="none" class="s-{shape.colour}" stroke="{PALETTE[shape.colour][0]}" stroke-width="{shape.width:g}"'
        return f'<polyline points="{points}" {style} stroke-linejoin="round"/>'
    if isinstance(shape, Spot):
        place = f'cx="{shape.x:.1f}" cy="{shape.y:.1f}" r="{shape.radius:g}"'
        return f"<circle {place} {_filled(shape.colour)}>{_hint(shape.hint)}</circle>"
    weight = ' font-weight="600"' if shape.is_bold else ""
    place = f'x="{shape.x:.1f}" y="{shape.y:.1f}" text-anchor="{shape.anchor}" font-size="{shape.size:g}"{weight}'
    return f"<text {place} {_filled(shape.colour)}>{_text(shape.text)}</text>"


def _hint(text: str) -> str:
    return f"<title>{_text(text)}</title>" if text else ""


def _text(text: str) -> str:
    """Escaped, and without characters that XML does not allow."""
    return escape("".join(c if c >= " " and c not in "\x7f￾￿" and not "\ud800" <= c <= "\udfff" else " " for c in text))
