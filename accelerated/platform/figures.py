"""Accuracy over steps or spikes as SVG: plain shapes with classes, so that the style sheet gives the colours."""

import math
from html import escape

WIDTH = 640
HEIGHT = 320
LEFT = 78  # margins
BOTTOM = 44
TOP = 12
RIGHT = 12
MARKS = 6  # kinds of lines in the style sheet
FLOORS = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.98, 0.99)  # where the axis of accuracy may begin
LEAST = 1 / 64  # where the axis of spikes begins at the latest: it has no 0


def accuracy(series: dict, target: float | None, titles: tuple[str, str], label: str, zoomed: bool = False) -> str:
    """An SVG of {name: [(x, accuracy share)]}, x on a logarithmic axis; `target` is drawn as a horizontal line.

    `zoomed`: accuracy begins just below the best of the worst line, where results differ, in place of at 0.
    """
    points = [(max(at, LEAST), share) for line in series.values() for at, share in line]
    if not points:
        return ""
    low = math.log2(min(at for at, _ in points))
    high = max(math.log2(max(at for at, _ in points)), low + 1)
    worst = min(max(share for _, share in line) for line in series.values() if line)
    floor = max((floor for floor in FLOORS if floor < worst - 0.01), default=0.0) if zoomed else 0.0

    def x(at):
        return LEFT + (math.log2(max(at, LEAST)) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(share):
        return HEIGHT - BOTTOM - (share - floor) / (1 - floor) * (HEIGHT - BOTTOM - TOP)

    def across(kind, share):
        return f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(share):.1f}" y2="{y(share):.1f}"/>'

    def text(words, at_x, at_y, anchor="middle", more=""):
        return f'<text class="tick" x="{at_x:.1f}" y="{at_y:.1f}" text-anchor="{anchor}"{more}>{escape(words)}</text>'

    parts = [f'<svg class="figure" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">']
    for i in range(5):
        share = floor + i * (1 - floor) / 4
        parts += [across("grid", share), text(f"{100 * share:.4g}", LEFT - 6, y(share) + 4, "end")]
    powers = range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)
    parts += [text(f"{2.0**k:.2g}" if k < 7 else f"{2**k}", x(2.0**k), HEIGHT - BOTTOM + 18)
              for k in powers[:: len(powers) // 9 + 1]]  # fmt: skip
    if target is not None:
        parts.append(across("target", target))
    inner = WIDTH - LEFT - RIGHT + 8, HEIGHT - TOP - BOTTOM + 8  # with room for dots; what lies below is cut off
    parts.append(f'<svg x="{LEFT - 4}" y="{TOP - 4}" width="{inner[0]}" height="{inner[1]}" '
                 f'viewBox="{LEFT - 4} {TOP - 4} {inner[0]} {inner[1]}">')  # fmt: skip
    for i, line in enumerate(series.values()):
        path = " ".join(f"{x(at):.1f},{y(share):.1f}" for at, share in sorted(line))
        parts.append(f'<polyline class="line line{i % MARKS}" points="{path}"/>')
        parts += [f'<circle class="dot line{i % MARKS}" cx="{x(at):.1f}" cy="{y(s):.1f}" r="3.5"/>' for at, s in line]
    parts.append("</svg>")
    middle = HEIGHT / 2 - 16
    parts.append(text(titles[0], (LEFT + WIDTH) / 2, HEIGHT - 6))
    parts.append(text(titles[1], 14, middle, more=f' transform="rotate(-90 14 {middle})"'))
    return "".join(parts) + "</svg>"
