"""Accuracy over T as SVG: plain shapes with classes, so that the style sheet gives the colours."""

import math
from html import escape

WIDTH = 640
HEIGHT = 320
LEFT = 52  # margins
BOTTOM = 44
TOP = 12
RIGHT = 12
MARKS = 6  # kinds of lines in the style sheet


def accuracy(
    series: dict, target: float | None = None, titles: tuple[str, str] = ("T", "accuracy in %"), label: str = ""
) -> str:
    """An SVG of {name: [(T, accuracy share)]}; T on a logarithmic axis. `target` is drawn as a horizontal line."""
    points = [point for line in series.values() for point in line]
    if not points:
        return ""
    steps = sorted({t for t, _ in points})
    low = math.log2(steps[0])
    high = max(math.log2(steps[-1]), low + 1)

    def x(t):
        return LEFT + (math.log2(t) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(share):
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)

    def across(kind, share):
        return f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(share):.1f}" y2="{y(share):.1f}"/>'

    def text(words, at_x, at_y, anchor="middle", more=""):
        return f'<text class="tick" x="{at_x:.1f}" y="{at_y:.1f}" text-anchor="{anchor}"{more}>{escape(words)}</text>'

    parts = [f'<svg class="figure" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">']
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts += [across("grid", share), text(f"{100 * share:.0f}", LEFT - 6, y(share) + 4, "end")]
    powers = [t for t in steps if t & (t - 1) == 0] or steps
    parts += [text(str(t), x(t), HEIGHT - BOTTOM + 18) for t in powers]
    if target is not None:
        parts.append(across("target", target))
    for i, line in enumerate(series.values()):
        path = " ".join(f"{x(t):.1f},{y(share):.1f}" for t, share in sorted(line))
        parts.append(f'<polyline class="line line{i % MARKS}" points="{path}"/>')
        parts += [f'<circle class="dot line{i % MARKS}" cx="{x(t):.1f}" cy="{y(s):.1f}" r="3.5"/>' for t, s in line]
    middle = HEIGHT / 2 - 16
    parts.append(text(titles[0], (LEFT + WIDTH) / 2, HEIGHT - 6))
    parts.append(text(titles[1], 14, middle, more=f' transform="rotate(-90 14 {middle})"'))
    return "".join(parts) + "</svg>"
