"""How numbers read."""


def duration(seconds):
    """`17 min 05 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def signed(value, digits=2):
    """With its sign, and a real minus; what rounds to 0 is positive."""
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−")


def plural(count, noun):
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def number(value):
    """As a target is written: `2.16`, `3`."""
    return f"{value:g}"
