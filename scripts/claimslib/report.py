"""Writes the results: a page, the figures behind it, and a picture of every network's front."""

import math
import os
import re
import sys
import textwrap

from . import picture
from .fronts import bits_at, points_by_mode, ratio
from .plan import BOOK, FLOAT, JOINT, MODES, PLAN, ROOT, Problem, shown
from .records import STALE, write_atomically
from .words import number, plural, signed

NOTES, END_OF_NOTES = "<!-- notes -->", "<!-- /notes -->"
MISSING = "–"
ABOUT_RUNS = (
    "All runs of a network start from one float network. {alike} Written by `scripts/claims` from "
    "[results/claims.json](results/claims.json), which has the command, the hashes and the commit of every run; only the notes "
    "are by hand."
)
ALIKE = "They are of one build on one machine, and differ in what the tables name and in nothing else."
NOT_ALIKE = (
    "They are not known to be of one build on one machine (see *Measured on*), so they may differ in more than what the tables name."
)
ABOUT_BUILDS = (
    "A commit is the project's when the runs were started, `-dirty` if there were changes to it; *binary* is the start of the "
    "SHA-256 of the program that ran."
)
ABOUT_FIGURES = (
    "**bits** are fixed-length bits per value in the `relu` convention, **stored** those of the `stored` convention, **entropy** what "
    "an ideal entropy coder would need ([the method]({method}#what-is-counted)). **dropped** is the percentage of the values that "
    "are dropped, **extra MACs** what the transforms add to the network's own multiply-accumulates in percent, without what folds into "
    "neighbouring layers, and **unfolded** the same with it; **side** is the side information in kB."
)
ABOUT_FRONTS = (
    "A point is the mean of a mode's runs at one target, over the seeds that are measured. Joint's front is its points that no other "
    "of its points with as few bits equals or beats, joined by straight lines over the logarithm of the bits. For each baseline "
    "point, **joint** is the least number of bits at which this front reaches its accuracy. `≤`: joint's lowest point lies above "
    "that accuracy, so that fewer bits might do; *not reached*: no joint point is as accurate. **spread** is the "
    "highest minus the lowest top-1 of the baseline point's seeds."
)
ABOUT_PAPER = (
    "**paper** is what the paper reports for this network, on ImageNet at 224×224, against a baseline of comparable or lower "
    "accuracy than joint."
)


def write(plan, records, docs):
    """Brings `docs/results.md` and `docs/results/` up to date; notes that were written by hand stay."""
    page = docs / "results.md"
    notes = notes_of(page)
    standings = {run.id: records.standing(run) for run in plan.runs}
    found = {name: standing.record for name, standing in standings.items() if standing.record}
    for name in sorted(set(records.kept) - set(standings)):
        print(f"claims: {name} is no longer in the plan, its figures are left out", file=sys.stderr)
    sections = []
    for network in plan.networks.values():
        chapter = Chapter(plan, network, standings)
        if chapter.points:
            write_atomically(docs / "results" / chapter.picture, chapter.draw())
        sections += chapter.text()
    lines = [*head(plan, standings, docs), NOTES, *notes, END_OF_NOTES, "", *sections]
    records.save(to_keep(plan, records, standings))
    write_atomically(page, "\n".join(lines).rstrip() + "\n")
    print(f"{shown(page)}: {len(found)} of {plural(len(plan.runs), 'run')}")


def to_keep(plan, records, standings):
    """The figures that are shown, and earlier ones of runs that have none: these may have taken hours."""
    for run in plan.runs:
        standing = standings[run.id]
        if why := (standing.earlier or {}).get(STALE):
            print(f"claims: {run.id}: the figures of an earlier run are stale, as {why}; they stay in {shown(records.path)}, marked "
                  "so, but not on the page", file=sys.stderr)
        if record := standing.record or standing.earlier:
            yield record


def notes_of(page):
    """The lines between the markers of a page."""
    try:
        lines = page.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"{shown(page)} can't be read: {error}") from None
    bounds = [at for at, line in enumerate(lines) if line.strip() in (NOTES, END_OF_NOTES)]
    if [lines[at].strip() for at in bounds] != [NOTES, END_OF_NOTES]:
        raise Problem(f"{shown(page)} must have one line {NOTES} and, below it, one line {END_OF_NOTES}: what is "
                      "written between them is kept, the rest is written anew")
    return lines[bounds[0] + 1:bounds[1]]


def method_page(docs):
    """The page of the formulas as seen from a page in `docs`, which may be a folder of the project's book."""
    inside = docs.resolve().is_relative_to(BOOK)
    return os.path.relpath(BOOK / "method.md", docs.resolve()) if inside else "method.md"


def paragraph(words):
    return [*textwrap.wrap(words, 140, break_long_words=False, break_on_hyphens=False), ""]


def table(header, rows):
    """Markdown; a header that ends in `>` is of numbers."""
    names = [name.rstrip(">") for name in header]
    rule = ["---:" if name.endswith(">") else "---" for name in header]
    return ["| " + " | ".join(row) + " |" for row in [names, rule, *rows]] + [""]


def distinct(records, *keys):
    return list(dict.fromkeys(tuple(record[key] for key in keys) for record in records))


def builds(records):
    """The ids of runs by what they were run with, in words; and whether all are known to be of one build."""
    together = {}
    for record in records:
        commit = record["git_commit"] or "unknown"
        commit = commit[:7] if re.fullmatch("[0-9a-f]{40}", commit) else commit
        together.setdefault((record["dimbit_version"], commit, record.get("binary_sha256")), []).append(record["id"])
    words = {
        f"dimbit {version} at commit {commit}, binary {binary[:12] if binary else 'not recorded'}": ids
        for (version, commit, binary), ids in together.items()
    }
    return words, len(together) == 1 and all(binary for _, _, binary in together)


def head(plan, standings, docs):
    other = plan.path != PLAN or docs.resolve() != BOOK
    options = f" --plan {shown(plan.path)} --docs {shown(docs.absolute())}" if other else ""
    found = [standing.record for standing in standings.values() if standing.record]
    made, one_build = builds(found)
    alike = one_build and len(distinct(found, "machine", "device", "threads")) == 1
    yield from [f"# {plan.title}", ""]
    yield from paragraph(plan.about)
    yield from paragraph(ABOUT_RUNS.format(alike=ALIKE if alike else NOT_ALIKE))
    yield from [f"* **{mode.title}**: {mode.about}" for mode in plan.modes.values()]
    yield from ["", *paragraph(ABOUT_FIGURES.format(method=method_page(docs)))]
    if found:
        yield "Measured on:"
        yield ""
        for machine, device, threads, jobs in distinct(found, "machine", "device", "threads", "jobs"):
            yield (f"* {machine}; device {device}, {plural(threads, 'thread')} a run, up to "
                   f"{plural(jobs, 'run')} side by side (seconds are of such runs)")
        for words, ids in made.items():
            yield f"* {words}" + (": " + ", ".join(f"`{name}`" for name in ids) if len(made) > 1 else "")
        yield ""
        yield from paragraph(ABOUT_BUILDS)
    yield f"{len(found)} of {plural(len(standings), 'run')} are measured."
    gaps = [f"* `{name}`: {standing.words}" for name, standing in standings.items() if not standing.record]
    yield from (["", "Not measured:", "", *gaps] if gaps else [])
    # An ablation may well leave its mode, a claim must not.
    others = [f"* `{run.id}` is listed as {run.mode.id}, but its recipe makes it {record['recipe_mode']}" for run in plan.runs
              if run.purpose != "ablation" and (record := standings[run.id].record) and record["recipe_mode"] != run.mode.id]
    yield from (["", "**In another mode than the plan says**:", "", *others] if others else [])
    yield from ["", "To repeat all of it, one network's joint runs, or this page alone:", ""]
    yield from ["    " + line for line in (
        "scripts/setup --python && cargo build --release",
        f"scripts/claims{options}                              # goes on where it was stopped",
        f"scripts/claims run{options} --only '^{next(iter(plan.networks))}-joint'",
        f"scripts/claims report{options}",
    )]
    yield ""


class Chapter:
    """What the page says about one network."""

    def __init__(self, plan, network, standings):
        self.plan, self.network, self.standings = plan, network, standings
        self.runs = [run for run in plan.runs if run.network is network]
        self.claims = [run for run in self.runs if run.purpose == "claim"]
        measured = [(run, self.record(run)) for run in self.claims if self.record(run)]
        self.measured = len(measured)
        self.points = points_by_mode(measured)
        own = self.record(plan.floats[network.id])
        self.float_top1 = own["top1"] if own else measured[0][1]["float_top1"] if measured else None
        self.picture = f"{network.id}-front.svg"

    def record(self, run):
        return self.standings[run.id].record

    def title(self, mode):
        return self.plan.modes[mode].title

    def draw(self):
        return picture.draw(self.network, self.plan.modes, self.points, self.float_top1, self.measured, len(self.claims))

    def text(self):
        yield from [f"## {self.network.title}", ""]
        if self.float_top1 is not None:
            share = self.float_top1 / 100
            error = 100 * math.sqrt(share * (1 - share) / self.plan.test_images)
            yield from paragraph(
                f"The float network reaches {self.float_top1:.2f} %. On {self.plan.test_images:,} test images the standard error of "
                f"such a top-1 is {error:.2f} points."
            )
        yield from self.training()
        if self.points:
            yield from [f"![{self.network.title}: top-1 of every mode against bits per value](results/{self.picture})", ""]
        yield from self.all_runs()
        if any(mode != JOINT for mode in self.points):
            yield from self.against_joint()
        yield from self.seeds()
        yield from self.ablations()

    def training(self):
        """How long runs train: a comparison of short runs is one of short runs."""
        modes = {}
        for run in sorted(self.runs, key=lambda run: MODES.index(run.mode.id)):
            if run.purpose == "ablation":
                continue
            if images := (self.record(run) or {}).get("training_images"):
                modes.setdefault(images, {})[run.mode.title] = None
        if modes:
            words = "; ".join(f"{', '.join(titles)}: {images:,}" for images, titles in modes.items())
            yield from paragraph(f"Images that a run trains on, repeats counted (its steps times the batch): {words}.")

    def all_runs(self):
        """Every claim, finished or not, by mode and bits."""
        def order(run):
            record = self.record(run)
            return MODES.index(run.mode.id), record["bits_per_value"] if record else run.target, run.seed

        rows = []
        for run in [self.plan.floats[self.network.id], *sorted(self.claims, key=order)]:
            record, is_float = self.record(run), run.mode.id == FLOAT
            target = MISSING if is_float else number(run.target)
            start = [run.mode.title, target, str(run.seed)]
            if record is None:
                rows.append([*start, "not measured", *[MISSING] * 9, f"`{run.id}`"])
                continue
            entropy, times = record["bits_per_value_entropy"], f"{record['seconds']:.0f}"
            rows.append([
                *start, f"{record['top1']:.2f}", MISSING if is_float else signed(record["top1"] - record["float_top1"]),
                f"{record['bits_per_value']:.2f}", f"{record['bits_per_value_stored']:.2f}",
                MISSING if entropy is None else f"{entropy:.2f}", f"{100 * record['dropped_fraction'] + 0.0:.1f}",
                *extra_macs(record), f"{record['side_information_bytes'] / 1000:.0f}", times, f"`{run.id}`",
            ])
        yield from table(["mode", "target>", "seed>", "top-1>", "to float>", "bits>", "stored>", "entropy>", "dropped>",
                          "extra MACs>", "unfolded>", "side>", "seconds>", "run"], rows)
        notes = [f"* `{run.id}`: {about}" for run in self.claims if (about := apart_from_its_mode(run))]
        yield from ([*notes, ""] if notes else [])

    def against_joint(self):
        yield from ["### Bits of joint against each baseline, at equal or better accuracy", ""]
        yield from paragraph(ABOUT_FRONTS)
        yield from paragraph(ABOUT_PAPER) if self.network.paper else []
        rows = []
        for mode in MODES[1:-1]:
            for point in self.points.get(mode, []):
                joint = bits_at(self.points.get(JOINT, []), point.top1)
                bits, fewer = self.compared(joint, point.bits)
                spread = f"{point.high - point.low:.2f} ({len(point.seeds)} seeds)" if len(point.seeds) > 1 else MISSING
                rows.append([self.title(mode), f"{point.top1:.2f}", spread, f"{point.bits:.2f}", bits, fewer, self.paper(mode)])
            if not self.points.get(mode) and any(run.mode.id == mode for run in self.claims):
                rows.append([self.title(mode), "not measured", *[MISSING] * 4, self.paper(mode)])
        yield from table(["baseline", "top-1>", "spread>", "bits>", "joint>", "fewer bits>", "paper>"], rows)

        level = self.float_top1 - 1
        yield from paragraph(f"Least bits within one point of the float network, at {level:.2f} %, each mode along its own front:")
        joint = bits_at(self.points.get(JOINT, []), level)
        rows = []
        for mode in MODES[1:]:
            if not any(run.mode.id == mode for run in self.claims):
                continue
            own = bits_at(self.points[mode], level) if mode in self.points else None
            words = "not reached" if mode in self.points else "not measured"
            if own:
                words = in_words(own)
            rows.append([self.title(mode), words, MISSING if mode == JOINT else percent(ratio(joint, own))])
        yield from table(["mode", "bits>", "joint has fewer by>"], rows)

    def compared(self, joint, baseline):
        """Joint's bits and how many fewer they are than a baseline point's."""
        if joint is None:
            return "not reached" if JOINT in self.points else "not measured", MISSING
        sign = "≤" if joint.bound else "="
        return in_words(joint), percent((sign, joint.value / baseline))

    def paper(self, mode):
        return f"{self.network.paper[mode]} %" if mode in self.network.paper else MISSING

    def seeds(self):
        together = {}
        for run in self.claims:
            together.setdefault((MODES.index(run.mode.id), run.target), []).append(run)
        rows = []
        for (mode, target), runs in sorted(together.items()):
            if len(runs) < 2:
                continue
            top1 = [self.record(run)["top1"] for run in runs if self.record(run)]
            measured = f"{len(top1)} of {len(runs)}"
            figures = [f"{sum(top1) / len(top1):.2f}" if top1 else MISSING, MISSING, MISSING]
            if len(top1) > 1:
                figures[1:] = [f"{min(top1):.2f} to {max(top1):.2f}", f"{max(top1) - min(top1):.2f}"]
            rows.append([self.title(MODES[mode]), number(target), measured, *figures])
        if rows:
            yield from ["### Seeds", "", "A seed changes all that is random in a compressed run; the float network is the same for all.", ""]
            yield from table(["mode", "target>", "seeds measured>", "mean top-1>", "range>", "spread>"], rows)

    def ablations(self):
        groups = {}
        for run in self.runs:
            if run.purpose == "ablation":
                groups.setdefault(run.default.id, []).append(run)
        for runs in groups.values():
            default = runs[0].default
            yield from [f"### Ablations: {default.mode.title} at {number(default.target)} bits, seed {default.seed}", ""]
            base = self.record(default)
            point = next((point for point in self.points.get(default.mode.id, []) if point.target == default.target), None)
            if point and len(point.seeds) > 1:
                yield from paragraph(f"Between the {len(point.seeds)} measured seeds of the unchanged run, top-1 spreads by "
                                     f"{point.high - point.low:.2f} points; a difference no larger says little.")
            rows = [self.ablation("nothing", default, base)]
            rows += [self.ablation(run.note or run.id, run, base) for run in runs]
            header = ["what is changed", "keys", "top-1>", "to default>", "bits>", "extra MACs>", "unfolded>", "run"]
            yield from table(header, rows)

    def ablation(self, words, run, base):
        record = self.record(run)
        keys = ", ".join(f"`{one}`" for one in run.sets) if run.purpose == "ablation" else MISSING
        if record is None:
            return [words, keys, "not measured", *[MISSING] * 4, f"`{run.id}`"]
        change = MISSING if base is None or run.purpose != "ablation" else signed(record["top1"] - base["top1"])
        return [words, keys, f"{record['top1']:.2f}", change, f"{record['bits_per_value']:.2f}", *extra_macs(record), f"`{run.id}`"]


def extra_macs(record):
    """What the transforms add in percent, without and with what folds; figures of an older dimbit have the former alone."""
    unfolded = record.get("mac_overhead_unfolded_percent")
    return f"{record['mac_overhead_percent']:.1f}", MISSING if unfolded is None else f"{unfolded:.1f}"


def apart_from_its_mode(run):
    """What makes a claim differ from its mode's recipe at its target, if anything does."""
    recipe = [] if run.recipe == ROOT / run.mode.recipe else [f"recipe `{shown(run.recipe)}`"]
    return "; ".join([*([run.note] if run.note else []), *recipe, *(f"`{one}`" for one in run.sets)])


def in_words(bits):
    """`≤ 0.61` for at most 0.602: a bound is rounded away from what it bounds."""
    return f"≤ {math.ceil(round(100 * bits.value, 6)) / 100:.2f}" if bits.bound else f"{bits.value:.2f}"


def percent(compared):
    """`(sign, ratio)` as how many bits are saved: `≥ 55 %` for a ratio of at most 0.45; bounds are rounded as in `in_words`."""
    if compared is None:
        return MISSING
    sign, value = compared
    mark, whole = {"=": ("", round), "≤": ("≥ ", math.floor), "≥": ("≤ ", math.ceil)}[sign]
    # Without the dust of floating point, which would turn 58 into 57.
    fewer = round(100 * (1 - value), 6)
    # Tenths below 1 %: two runs at one target differ by hundredths of a percent, which is not 1 %.
    words = f"{whole(10 * fewer) / 10:.1f}" if abs(fewer) < 1 else str(whole(fewer))
    return f"{mark}{words} %".replace("-0.0", "0.0").replace("-", "−")
