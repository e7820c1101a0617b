"""From times and peaks to a table; knows nothing of PyTorch."""

import json
import re
from statistics import median, quantiles

from claimslib.records import write_atomically
from claimslib.words import plural

FLOAT = "pytorch-float"
BEGIN, END = "<!-- bench-peers: begin -->", "<!-- bench-peers: end -->"


def own_float(name):
    """The float row that a row is a variant of."""
    return "dimbit-float" if name.startswith("dimbit-") else FLOAT


def rows(times, peaks):
    """A record for each row: `times` in milliseconds, one a round; `peaks` in bytes or none."""
    medians = {name: median(values) for name, values in times.items()}

    def ratio(values, name, base):
        if values.get(name) is None or values.get(base) is None:
            return None
        return values[name] / values[base]

    return [{
        "name": name,
        "median_ms": medians[name],
        "quartiles_ms": quartiles(values),
        "ratio_to_pytorch_float": ratio(medians, name, FLOAT),
        "ratio_to_own_float": ratio(medians, name, own_float(name)),
        "peak_bytes": peaks.get(name),
        "peak_ratio_to_own_float": ratio(peaks, name, own_float(name)),
    } for name, values in times.items()]


def quartiles(values):
    """Lower and upper quartile, as dimbit counts them."""
    if len(values) == 1:
        return [values[0], values[0]]
    cuts = quantiles(values, n=4, method="inclusive")
    return [cuts[0], cuts[2]]


def markdown(results):
    """The results as a paragraph and tables."""
    how = results["measured"]
    parts = [
        f"{how['machine']}, {plural(how['threads'], 'thread')}, batch {how['batch']}, {how['size']}×{how['size']} pixels, "
        f"{plural(how['rounds'], 'round')}; PyTorch {how['torch']}, torchvision {how['torchvision']}, Brevitas {how['brevitas']}; "
        f"dimbit {how['dimbit']}."
    ]
    for network in results["networks"]:
        lines = [
            f"**{network['network']}**, `--transform {network['transform']} --target-bits {network['target_bits']}`", "",
            "| row | median ms | quartiles | × PyTorch float | × own float | peak MB | × own float |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ]
        for row in network["rows"]:
            low, high = row["quartiles_ms"]
            cells = [
                row["name"], f"{row['median_ms']:.1f}", f"{low:.1f}–{high:.1f}", number(row["ratio_to_pytorch_float"]),
                number(row["ratio_to_own_float"]), number(row["peak_bytes"], 1e-6, 0),
                number(row["peak_ratio_to_own_float"]),
            ]
            lines.append("| " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def number(value, unit=1.0, digits=2):
    return "–" if value is None else f"{value * unit:.{digits}f}"


def write_docs(page, results):
    """Puts the tables between the marks of the page."""
    text = page.read_text(encoding="utf-8")
    pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    filled, count = pattern.subn(lambda _: f"{BEGIN}\n\n{markdown(results)}\n{END}", text)
    if count != 1:
        raise ValueError(f"{page} has not exactly one place between `{BEGIN}` and `{END}`")
    write_atomically(page, filled)


def write_json(path, results):
    write_atomically(path, json.dumps(results, indent=2) + "\n")
