"""The plan: which networks and runs there are, and what exactly each run is."""

import hashlib
import json
import re
import shlex
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FLOAT, JOINT = "float", "joint"
#: The plan of the project's claims, and where its page goes.
PLAN, BOOK = ROOT / "recipes/fashion-mnist/claims.json", ROOT / "docs"
#: The modes that the report has colours, marks and an order for: every baseline, then what they are compared with.
MODES = [FLOAT, "uniform", "mp", "mp_grouped", "dr_only", "dr_then_mp", JOINT]


class Problem(Exception):
    """Something in the input is wrong: what, where, and what to do."""


def shown(path):
    """A path as a reader types it: from the project's folder, if it lies there."""
    path = Path(path)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def read_json(path):
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"{shown(path)} can't be read: {error}") from None
    except ValueError as error:
        raise Problem(f"{shown(path)} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise Problem(f"{shown(path)}: an object is expected")
    return value


def sha256_of_file(path):
    """None where there is no such file."""
    try:
        about = path.stat()
    except FileNotFoundError:
        return None
    return _sha256(path, about.st_mtime_ns, about.st_size)


@cache
def _sha256(path, _modified, _size):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def recipe_text(path, above=(), stages=True):
    """A recipe and what it extends, without what changes no run: comments, empty lines, and a base's stages where a list of
    stages replaces them."""
    if path in above:
        raise Problem(f"{shown(path)} extends itself")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise Problem(f"the recipe {shown(path)} can't be read: {error.strerror}") from None
    lines = [line.rstrip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not stages and "stages:" in lines:
        start = lines.index("stages:")
        end = next((n for n in range(start + 1, len(lines)) if not lines[n][0] in " -"), len(lines))
        lines = lines[:start] + lines[end:]
    replaces = any(pair[0] == "stages:" and pair[1].lstrip().startswith("- ") for pair in zip(lines, lines[1:]))
    text = "\n".join(lines)
    for line in lines:
        if match := re.match(r"extends:\s*([^#]*)", line):
            for base in match[1].strip(" []").split(","):
                if not base.strip():
                    raise Problem(f"{shown(path)}: write what it extends on the line of `extends:`")
                text += "\n---\n" + recipe_text(path.parent / base.strip(" '\""), (*above, path), stages and not replaces)
    return text


@dataclass(frozen=True)
class Network:
    """A network that is trained in float once and then compressed in every run."""

    id: str
    title: str
    #: The initial network, and the command that makes it.
    model: str
    export: str
    #: Fewer bits in percent that the paper reports for its joint mode, by baseline mode.
    paper: dict


@dataclass(frozen=True)
class Mode:
    """A way of compressing: its recipe, and the key of the recipe that sets how far."""

    id: str
    title: str
    recipe: str
    target: str | None
    about: str


@dataclass(frozen=True)
class Run:
    """One run. Its settings are all that is said with `--set` but the network's file."""

    id: str
    network: Network
    mode: Mode
    recipe: Path
    settings: dict
    target: float | None
    seed: int
    purpose: str
    note: str
    folder: Path
    #: The network's file that it starts from.
    model: Path
    #: The keys that it sets itself; with an ablation, what makes it differ from its default.
    varied: dict = field(default_factory=dict)
    #: The claim that an ablation is compared with.
    default: "Run | None" = None

    @property
    def log(self):
        return self.folder.with_name(self.id + ".log")

    @property
    def stamp(self):
        """What the folder was started with; beside it, as dimbit wants its folder empty."""
        return self.folder.with_name(self.id + ".json")

    @property
    def float_file(self):
        """What a float run is for."""
        return self.folder / "checkpoints/float.pt"

    def arguments(self, model=None):
        """The arguments of `dimbit run` but for `--out`, paths as seen from the project's folder."""
        settings = {"model.path": shown(model or self.model), **self.settings}
        sets = [part for key, value in settings.items() for part in ("--set", f"{key}={as_yaml(value)}")]
        return [shown(self.recipe), *sets]

    def command(self, binary="target/release/dimbit"):
        return [binary, "run", *self.arguments(), "--out", shown(self.folder)]

    def command_line(self):
        """The same for a shell. The number of threads is part of it: another one changes a result's last bits."""
        return "OMP_NUM_THREADS=1 " + shlex.join(map(str, self.command()))

    @property
    def sets(self):
        """What the plan adds to the mode's own recipe and target, as `key=value`."""
        return [f"{key}={as_yaml(value)}" for key, value in self.varied.items()]

    def identity(self):
        """What a finished run must agree with: nothing else changes its result, but its float network and dimbit."""
        recipe = hashlib.sha256(recipe_text(self.recipe).encode()).hexdigest()
        return {"recipe_text_sha256": recipe, "settings": self.settings}


def as_yaml(value):
    return value if isinstance(value, str) else json.dumps(value)


class Plan:
    """All runs in the order in which they are carried out: every network's float training first."""

    def __init__(self, path, content, folder):
        self.path, self.folder = path, folder
        try:
            self.title = content.get("title", "Results")
            self.about, self.test_images = content["about"], content["test_images"]
            self.prepare = [(step["creates"], step["command"]) for step in content["prepare"]]
            self.networks = {
                key: Network(key, value["title"], value["model"], value["export"], value.get("paper", {}))
                for key, value in content["networks"].items()
            }
            self.modes = {
                key: Mode(key, value["title"], value["recipe"], value.get("target"), value["about"])
                for key, value in content["modes"].items()
            }
            if unknown := set(self.modes) - set(MODES):
                raise Problem(f"{shown(path)}: unknown mode {', '.join(sorted(unknown))}; there are {', '.join(MODES)}")
            floats = [self.float_run(key, value["float"]) for key, value in content["networks"].items()]
            runs = content["runs"]
        except (KeyError, TypeError, AttributeError) as error:
            raise Problem(f"{shown(path)}: {type(error).__name__}: {error}") from None
        self.floats = {run.network.id: run for run in floats}
        #: Claims by what makes them one point of a table.
        self.claims = {}
        # Claims before ablations, which start from them.
        built = {}
        for entry in sorted(runs, key=lambda entry: entry.get("purpose") == "ablation"):
            built[id(entry)] = self.run(entry)
        self.runs = floats + [built[id(entry)] for entry in runs]
        ids = [run.id for run in self.runs]
        if twice := {one for one in ids if ids.count(one) > 1}:
            raise Problem(f"{shown(path)}: several runs have the id {', '.join(sorted(twice))}")

    @classmethod
    def load(cls, path, folder):
        return cls(path, read_json(path), folder)

    def float_run(self, key, entry):
        network, mode = self.networks[key], self.modes[FLOAT]
        name, seed = f"{FLOAT}-{key}", entry.get("seed", 0)
        settings = {"seed": seed, **entry.get("set", {})}
        return Run(name, network, mode, ROOT / mode.recipe, settings, None, seed, FLOAT, entry.get("note", ""),
                   self.folder / name, ROOT / network.model)

    def run(self, entry):
        def refuse(what):
            raise Problem(f"{shown(self.path)}, run {entry.get('id', json.dumps(entry))}: {what}")

        known = {"id", "network", "mode", "recipe", "set", "target", "seed", "purpose", "note"}
        if unknown := set(entry) - known:
            refuse(f"unknown key {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
        if missing := {"id", "network", "mode", "target", "purpose"} - set(entry):
            refuse(f"{', '.join(sorted(missing))} is missing")
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", entry["id"]):
            refuse("an id has letters, digits, dots, hyphens and underscores alone: it names a folder")
        if entry["network"] not in self.networks:
            refuse(f"there is no network {entry['network']}")
        mode = self.modes.get(entry["mode"])
        if mode is None or mode.target is None:
            refuse(f"there is no mode {entry['mode']} with a target")
        if entry["purpose"] not in ("claim", "ablation"):
            refuse("the purpose is claim or ablation")
        varied, seed = entry.get("set", {}), entry.get("seed", 0)
        settings = {"seed": seed, mode.target: entry["target"], **varied}
        point = (entry["network"], entry["mode"], entry["target"], seed)
        default = self.claims.get(point)
        if entry["purpose"] == "ablation":
            if default is None:
                refuse("no claim has its network, mode, target and seed, so there is nothing to compare it with")
            if not varied:
                refuse("an ablation sets at least one key")
            settings = {**default.settings, **varied}
        elif default is not None:
            refuse(f"{default.id} is the same claim: network, mode, target and seed")
        run = Run(entry["id"], self.networks[entry["network"]], mode, ROOT / entry.get("recipe", mode.recipe),
                  settings, entry["target"], seed, entry["purpose"], entry.get("note", ""),
                  self.folder / entry["id"], self.floats[entry["network"]].float_file, varied, default)
        if run.purpose == "claim":
            for other in self.claims.values():
                if (other.network, other.mode, other.target) == (run.network, run.mode, run.target):
                    if (other.varied, other.recipe) != (run.varied, run.recipe):
                        refuse(f"{other.id} is the same point with another seed, so `set` and `recipe` must be the same, too")
            self.claims[point] = run
        return run
