"""A chart as PNG, drawn from the same scene as the SVG, with Pillow (`openarctic[png]`) and the font that it brings."""

from __future__ import annotations

import io
from typing import Any

from openarctic.copilot.charts.scene import Box, Scene, Spot, Stroke, Words, lay_out
from openarctic.copilot.charts.svg import PALETTE
from openarctic.copilot.charts.vegalite import Spec, read_spec
from openarctic.errors import MissingError

SMOOTHING = 2  # drawn so many times larger, then reduced: Pillow's edges are hard
# Tried for texts beyond Latin, which the bundled font does not have; the first one that the system has is taken.
OTHER_FONTS = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "msgothic.ttc")
LAST_LATIN = "\u024f"


def png(spec: Spec, width: float = 720.0, scale: int = 2) -> bytes:
    """Draw a validated spec, light, `scale` pixels for each unit of the layout.

    Raises MissingError without Pillow, UserError for a spec that is not in the closed set.
    """
    return png_of(lay_out(read_spec(spec), width), scale)


def png_of(scene: Scene, scale: int = 2) -> bytes:
    """A laid out scene as the bytes of a file."""
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise MissingError("PNG charts need Pillow", "pip install 'openarctic[png]', or write an .svg") from error
    size = round(scene.width * scale), round(scene.height * scale)
    large = Image.new("RGB", (size[0] * SMOOTHING, size[1] * SMOOTHING), PALETTE["page"][0])
    pen = _Pen(ImageDraw.Draw(large), scale * SMOOTHING)
    for shape in scene.shapes:
        pen.draw(shape)
    file = io.BytesIO()
    large.resize(size, Image.Resampling.LANCZOS).save(file, "PNG", optimize=True)
    return file.getvalue()


class _Pen:
    """Draws shapes at a scale."""

    def __init__(self, canvas: Any, scale: float) -> None:
        self.canvas, self.scale = canvas, scale
        self.fonts: dict[tuple[float, bool], Any] = {}

    def draw(self, shape: Box | Stroke | Spot | Words) -> None:
        s, colour = self.scale, PALETTE[shape.colour][0]
        if isinstance(shape, Box):
            corner = (shape.x + shape.width) * s, (shape.y + shape.height) * s
            self.canvas.rounded_rectangle([(shape.x * s, shape.y * s), corner], 1.5 * s, fill=colour)
        elif isinstance(shape, Stroke):
            self.canvas.line([(x * s, y * s) for x, y in shape.points], fill=colour, width=round(shape.width * s), joint="curve")
        elif isinstance(shape, Spot):
            r = shape.radius
            self.canvas.ellipse([((shape.x - r) * s, (shape.y - r) * s), ((shape.x + r) * s, (shape.y + r) * s)], fill=colour)
        else:
            anchor = {"start": "ls", "middle": "ms", "end": "rs"}[shape.anchor]
            font = self._font(shape.size, any(c > LAST_LATIN for c in shape.text.replace("…", "")))
            bold = {"stroke_width": round(0.25 * s), "stroke_fill": colour} if shape.is_bold else {}
            self.canvas.text((shape.x * s, shape.y * s), shape.text, fill=colour, font=font, anchor=anchor, **bold)

    def _font(self, size: float, is_beyond_latin: bool) -> Any:
        key = size, is_beyond_latin
        if key not in self.fonts:
            self.fonts[key] = self._load(size * self.scale, is_beyond_latin)
        return self.fonts[key]

    def _load(self, size: float, is_beyond_latin: bool) -> Any:
        from PIL import ImageFont

        for name in OTHER_FONTS if is_beyond_latin else ():
            try:
                return ImageFont.truetype(name, size)
            except OSError:
                continue
        return ImageFont.load_default(size)
