"""How the report writes numbers."""


def percent(value: float | None, digits: int = 1) -> str:
    """Write a share of 0..1 in percent; a dash where it is undefined."""
    return "–" if value is None else f"{100 * value:.{digits}f}\u00a0%"


def percent_tick(value: float) -> str:
    """Write a share of 0..1 in percent, as short as it goes."""
    return f"{round(100 * value, 1):g}\u00a0%"


def count(value: int) -> str:
    """Write a large number with separated thousands."""
    return f"{value:,}"


def duration(minutes: float) -> str:
    """Write a time span: ``40 s``, ``25 min``, ``3.5 h``."""
    if minutes < 1:
        return f"{60 * minutes:.0f} s"
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def listing(words: list[str]) -> str:
    """Join words: ``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def css_colour(rgb: tuple[int, int, int]) -> str:
    """Write a colour of 0..255 as CSS does."""
    return "#{:02x}{:02x}{:02x}".format(*rgb)
