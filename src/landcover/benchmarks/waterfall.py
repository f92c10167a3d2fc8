"""A chart of what each change to a way of doing a job gains."""

from collections.abc import Sequence
from html import escape
from math import log10

_ROW_PX, _LEFT_PX, _WIDTH_PX, _RIGHT_PX, _TOP_PX = 34, 190, 430, 120, 46


def waterfall(title: str, steps: Sequence[tuple[str, float]]) -> str:
    """Draw bars on a logarithmic scale, the slowest first, each with its time and gain over the one before.

    Args:
        title: What is done.
        steps: What is changed at each step, and the time in ms with it.

    Returns:
        An SVG that follows the reader's light or dark colours.
    """
    low, high = log10(min(ms for _, ms in steps)) - 0.15, log10(max(ms for _, ms in steps))
    width, height = _LEFT_PX + _WIDTH_PX + _RIGHT_PX, _TOP_PX + _ROW_PX * len(steps) + 30
    rows = []
    for number, (name, ms) in enumerate(steps):
        y = _TOP_PX + number * _ROW_PX
        bar = _WIDTH_PX * (log10(ms) - low) / (high - low)
        gain = "" if number == 0 else f"{steps[number - 1][1] / ms:.1f}\u00d7"
        time = f"{ms / 1000:.2f} s" if ms >= 1000 else f"{ms:.0f} ms"
        rows.append(
            f'<text x="{_LEFT_PX - 10}" y="{y + 18}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{_LEFT_PX}" y="{y + 3}" width="{bar:.1f}" height="{_ROW_PX - 12}" rx="3" class="bar"/>'
            f'<text x="{_LEFT_PX + bar + 8:.1f}" y="{y + 18}">{time}</text>'
            f'<text x="{width - 8}" y="{y + 18}" text-anchor="end" class="gain">{gain}</text>'
        )
    total = steps[0][1] / steps[-1][1]
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">
<title>{escape(title)}</title>
<style>
text {{ font: 13px system-ui, sans-serif; fill: #222; }}
.head {{ font-size: 16px; font-weight: 600; }}
.gain, .note {{ fill: #666; }}
.bar {{ fill: #2a7f9e; }}
@media (prefers-color-scheme: dark) {{ text {{ fill: #eee; }} .gain, .note {{ fill: #aaa; }} }}
</style>
<text x="10" y="24" class="head">{escape(title)}: {total:.0f} times faster</text>
<text x="{width - 8}" y="24" text-anchor="end" class="note">gain of the step</text>
{"".join(rows)}
<text x="{_LEFT_PX}" y="{height - 8}" class="note">logarithmic; each row keeps the changes above</text>
</svg>
"""
