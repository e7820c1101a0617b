"""Draws the accuracy of every mode against its bits, as one SVG for light and dark pages."""

import math
from xml.sax.saxutils import escape

from .plan import JOINT
from .words import number

WIDTH, HEIGHT = 780, 500
LEFT, RIGHT, TOP, BOTTOM = 66, 764, 96, 440
#: Points further below the float network than this stand on the lower edge, with their accuracy beside them.
DEEPEST = 5.0
#: By class: colour on a light page, and on a dark one.
COLOURS = {
    "page": ("#ffffff", "#0d1117"),
    "text": ("#24292f", "#e6edf3"),
    "faint": ("#57606a", "#9ea7b3"),
    "grid": ("#e4e8ec", "#262c36"),
    "joint": ("#0b57a4", "#6cb6ff"),
    "mp_grouped": ("#1a7f37", "#56d364"),
    "mp": ("#b34700", "#ffa657"),
    "dr_then_mp": ("#b0307f", "#ff8cc8"),
    "dr_only": ("#7a48d6", "#c8a6ff"),
    "uniform": ("#5f6770", "#aab3be"),
}
SHAPES = {"joint": "circle", "mp_grouped": "square", "mp": "up", "dr_then_mp": "diamond", "dr_only": "down", "uniform": "cross"}
TICKS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.5, 2, 3, 4, 5, 6, 8, 16, 32]
FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


def paint(kind, name):
    """`fill` or `stroke` in the colour of a class; the attribute serves readers that know no style sheets."""
    return f'{kind}="{COLOURS[name][0]}" class="{kind[0]}-{name}"'


def style():
    dark = "".join(f".f-{name}{{fill:{dark}}}.s-{name}{{stroke:{dark}}}" for name, (_, dark) in COLOURS.items())
    return f"<style>@media (prefers-color-scheme: dark){{{dark}}}</style>"


def text_width(text, size, bold=False):
    """Roughly, and rather too wide: no font is at hand, and every reader has another."""
    return (0.6 if bold else 0.56) * size * len(text)


def text(x, y, content, name="text", size=15, anchor="start", bold=False):
    weight = ' font-weight="600"' if bold else ""
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"{weight} {paint("fill", name)}>'
            f"{escape(content)}</text>")


def line(points, name, width=1.0, extra=""):
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path d="{path}" fill="none" stroke-width="{width}" stroke-linejoin="round" {paint("stroke", name)}{extra}/>'


def marker(mode, x, y, title):
    """A mode's own shape, with a rim in the page's colour that parts it from lines and other marks below it."""
    r = 6.6 if mode == JOINT else 5.6
    corners = {
        "square": [(-r, -r), (r, -r), (r, r), (-r, r)],
        "up": [(0, -1.25 * r), (1.2 * r, 0.9 * r), (-1.2 * r, 0.9 * r)],
        "down": [(0, 1.25 * r), (1.2 * r, -0.9 * r), (-1.2 * r, -0.9 * r)],
        "diamond": [(0, -1.35 * r), (1.35 * r, 0), (0, 1.35 * r), (-1.35 * r, 0)],
        "cross": [(0.45 * r * a, 0.45 * r * b) for a, b in
                  [(-1, -2.5), (1, -2.5), (1, -1), (2.5, -1), (2.5, 1), (1, 1),
                   (1, 2.5), (-1, 2.5), (-1, 1), (-2.5, 1), (-2.5, -1), (-1, -1)]],
    }.get(SHAPES[mode])
    # One attribute `class` holds both colours.
    colours = (f'fill="{COLOURS[mode][0]}" stroke="{COLOURS["page"][0]}" class="f-{mode} s-page" '
               'stroke-width="1.6" stroke-linejoin="round"')
    if corners is None:
        shape = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}" {colours}>'
        return f"{shape}<title>{escape(title)}</title></circle>"
    path = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f'<polygon points="{path}" {colours}><title>{escape(title)}</title></polygon>'


class Labels:
    """Places labels beside marks where they cover nothing."""

    def __init__(self):
        #: Rectangles `(x0, y0, x1, y1)` that are taken, and points of lines with the name of what they belong to.
        self.taken, self.on_lines = [], []

    def take(self, x0, y0, x1, y1):
        self.taken.append((x0, y0, x1, y1))

    def follow(self, points, name):
        for (x0, y0), (x1, y1) in zip(points, points[1:]):
            steps = max(1, int(math.hypot(x1 - x0, y1 - y0) / 3))
            self.on_lines += [(x0 + (x1 - x0) * k / steps, y0 + (y1 - y0) * k / steps, name) for k in range(steps + 1)]

    def cost(self, box, name):
        x0, y0, x1, y1 = box
        if x0 < LEFT + 2 or x1 > RIGHT - 2 or y0 < TOP + 2 or y1 > BOTTOM - 2:
            return math.inf
        covered = sum(a - 4 < x1 and x0 < b + 4 and c - 3 < y1 and y0 < d + 3 for a, c, b, d in self.taken)
        crossed = {one for x, y, one in self.on_lines if x0 - 3 < x < x1 + 3 and y0 - 2 < y < y1 + 2}
        return 2000 * covered + sum(250 if one == name else 400 for one in crossed)

    def place(self, content, name, marks, size=15, bold=False):
        """The label, as near as can be to one of `marks`, with a thin line to it where it has to stand away."""
        width, height = text_width(content, size, bold), size
        best = None
        for index, (x, y) in enumerate(marks):
            # The ends of a line are where a reader looks for its name.
            middle = 6 * min(index, len(marks) - 1 - index)
            for distance in (12, 20, 30, 44, 60):
                for angle in range(0, 360, 15):
                    dx, dy = math.cos(math.radians(angle)), math.sin(math.radians(angle))
                    centre_x = x + dx * (distance + width / 2 * abs(dx))
                    centre_y = y + dy * (distance + height / 2 * abs(dy))
                    box = (centre_x - width / 2, centre_y - height / 2, centre_x + width / 2, centre_y + height / 2)
                    cost = self.cost(box, name) + 3 * (distance - 12) + middle + (0 if dx > 0.7 else 4)
                    if best is None or cost < best[0]:
                        best = cost, box, (x, y), distance
        _, box, (x, y), distance = best
        self.take(*box)
        label = text(box[0] + width / 2, box[3] - 0.2 * size, content, name, size, "middle", bold)
        if distance < 30:
            return label
        near = min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3])
        # From the mark's rim to the label's.
        length = math.hypot(near[0] - x, near[1] - y) or 1.0
        start = x + (near[0] - x) * 9 / length, y + (near[1] - y) * 9 / length
        return line([start, near], name, 0.8) + label


def draw(network, modes, points, float_top1, measured, planned):
    """`points` by mode as `fronts.points_by_mode` makes them, at least one of them; `measured` of `planned` runs."""
    order = [mode for mode in reversed(SHAPES) if points.get(mode)]
    everything = [point for mode in order for point in points[mode]]
    low = max(min(point.low for point in everything), float_top1 - DEEPEST)
    high = max([point.high for point in everything] + [float_top1])
    low = min(low, float_top1 - 1.6)
    # Room for a label above the highest and below the lowest.
    low, high = low - 0.08 * (high - low), high + 0.1 * (high - low)
    left = math.log(0.86 * min(point.bits for point in everything))
    right = math.log(1.16 * max(point.bits for point in everything))
    # An octave and a half at least, or there would be nothing to read the axis by.
    room = max(0.0, 1.5 * math.log(2) - (right - left)) / 2
    left, right = left - room, right + room

    def at_x(bits):
        return LEFT + (RIGHT - LEFT) * (math.log(bits) - left) / (right - left)

    def at_y(top1):
        return BOTTOM - (BOTTOM - TOP) * (top1 - low) / (high - low)

    def mark(point):
        return at_x(point.bits), min(at_y(point.top1), BOTTOM - 11)

    labels, body = Labels(), []
    step = next(step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10) if (high - low) / step <= 9)
    for k in range(math.ceil(low / step), math.floor(high / step) + 1):
        y = at_y(k * step)
        body += [line([(LEFT, y), (RIGHT, y)], "grid"), text(LEFT - 9, y + 5, number(round(k * step, 1)), "faint", anchor="end")]
    last = -math.inf
    for bits in (bits for bits in TICKS if left <= math.log(bits) <= right):
        x = at_x(bits)
        body.append(line([(x, TOP), (x, BOTTOM)], "grid"))
        if x - last > 34:
            body.append(text(x, BOTTOM + 21, number(bits), "faint", anchor="middle"))
            last = x
    body.append(line([(LEFT, BOTTOM), (RIGHT, BOTTOM)], "faint", 1.2))
    body.append(text((LEFT + RIGHT) / 2, BOTTOM + 44, "bits per value (log scale)", "faint", anchor="middle"))
    body.append(text(LEFT - 50, TOP - 16, "top-1 in %", "faint"))

    for content, level, dash in ((f"float {float_top1:.2f} %", float_top1, "8 5"),
                                 ("one point below float", float_top1 - 1, "2 5")):
        ends = [(LEFT, at_y(level)), (RIGHT, at_y(level))]
        body.append(line(ends, "text", 1.3, f' stroke-dasharray="{dash}"'))
        labels.follow(ends, "level " + content)
    for mode in order:
        for point in points[mode]:
            x, y = mark(point)
            labels.take(x - 8, y - 8, x + 8, y + 8)
        labels.follow([(at_x(point.bits), at_y(point.top1)) for point in points[mode]], mode)
    body.append('<g clip-path="url(#panel)">')
    for mode in order:
        width = 3 if mode == JOINT else 1.8
        body.append(line([(at_x(point.bits), at_y(point.top1)) for point in points[mode]], mode, width))
        for point in points[mode]:
            if point.high > point.low:
                x = at_x(point.bits)
                body.append(line([(x, at_y(point.low)), (x, at_y(point.high))], mode, 1.8))
                body += [line([(x - 5, at_y(end)), (x + 5, at_y(end))], mode, 1.8) for end in (point.low, point.high)]
                labels.take(x - 5, at_y(point.high), x + 5, at_y(point.low))
    body.append("</g>")
    for mode in order:
        for point in points[mode]:
            seeds = f", mean of {len(point.seeds)} seeds" if len(point.seeds) > 1 else ""
            title = f"{modes[mode].title}: {point.top1:.2f} % at {point.bits:.2f} bits{seeds}"
            body.append(marker(mode, *mark(point), title))
    for mode in reversed(order):
        body.append(labels.place(modes[mode].title, mode, [mark(point) for point in points[mode]], bold=mode == JOINT))
        for point in points[mode]:
            if at_y(point.top1) > BOTTOM - 11:
                body.append(labels.place(f"{point.top1:.1f} % ↓", mode, [mark(point)], 13))
    for content, level in ((f"float {float_top1:.2f} %", float_top1), ("one point below float", float_top1 - 1)):
        body.append(level_label(labels, content, at_y(level)))

    title = f"{network.title}: accuracy against bits"
    state = f"{measured} of {planned} runs are measured" if measured < planned else f"{planned} runs"
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" font-family="{FONT}">',
        f"<title>{escape(title)}</title>",
        style(),
        f'<clipPath id="panel"><rect x="{LEFT}" y="{TOP}" width="{RIGHT - LEFT}" height="{BOTTOM - TOP}"/></clipPath>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" {paint("fill", "page")}/>',
        text(16, 29, title, size=19, bold=True),
        text(16, 53, f"relu convention; every mode's line joins its own points; {state}", "faint", 16),
    ]
    return "\n".join([*head, *body, "</svg>"]) + "\n"


def level_label(labels, content, y):
    """Along a dashed line, where nothing else is; rather on it at its right than over a mark."""
    width = text_width(content, 13)
    best = None
    for x in range(int(RIGHT - width - 4), LEFT + 4, -6):
        for below in (False, True):
            top = y + 4 if below else y - 17
            box = (x, top, x + width, top + 13)
            cost = labels.cost(box, "level " + content) + 0.1 * (RIGHT - x) + 3 * below
            if best is None or cost < best[0]:
                best = cost, box
    labels.take(*best[1])
    return text(best[1][0], best[1][3] - 2, content, "text", 13)
