"""How each run stands, and the figures of those that are finished."""

import json
import os
import re
from dataclasses import dataclass

from .plan import FLOAT, Problem, read_json, sha256_of_file, shown

#: What is kept of a summary.
FIGURES = [
    "status", "top1", "float_top1", "bits_per_value", "bits_per_value_stored", "bits_per_value_entropy",
    "dropped_fraction", "mac_overhead_percent", "mac_overhead_unfolded_percent", "side_information_bytes", "seconds",
    "images_per_second", "recipe_sha256", "model_sha256", "dimbit_version",
]
#: Those that an older dimbit does not write.
LATER = {"mac_overhead_unfolded_percent"}
#: The mark of kept figures that hold no more, and why.
STALE = "stale"


@dataclass(frozen=True)
class Standing:
    """
    `record`: the figures, if there are any that hold; `folder`: whether they are those of its folder; `earlier`: figures
    that are kept but must not be shown, as the run's newest attempt gave none or as they hold no more.
    """

    words: str
    record: dict | None = None
    folder: bool = False
    earlier: dict | None = None


def write_atomically(path, text):
    """A reader sees the old file or the whole new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise Problem(f"{shown(path)} can't be written: {error.strerror or error}") from None


class Records:
    """Figures from the runs' folders and, for folders that are gone, from the file of an earlier report."""

    def __init__(self, plan, path):
        self.plan, self.path = plan, path
        self.kept = {}
        if path.exists():
            try:
                self.kept = {record["id"]: record for record in read_json(path)["runs"]}
            except (KeyError, TypeError):
                raise Problem(f"{shown(path)} is not what this script writes; remove it or bring it back") from None

    def standing(self, run):
        try:
            identity = run.identity()
        except Problem as problem:
            return Standing(f"missing: {problem}", earlier=self.kept.get(run.id))
        standing = self.of_folder(run, identity)
        if standing.record is not None or run.id not in self.kept:
            return standing
        kept = {key: value for key, value in self.kept[run.id].items() if key != STALE}
        if not agrees(kept, identity):
            return stale(standing.words, kept, "its recipe or its settings have changed since")
        if not self.of_this_network(run, kept):
            return stale(standing.words, kept, "its float network has changed since")
        if run.stamp.exists() or run.folder.exists():
            return Standing(f"{standing.words}; figures of an earlier run exist", earlier=kept)
        return Standing(f"recorded ({standing.words})", kept)

    def of_folder(self, run, identity):
        summary_file = run.folder / "summary.json"
        if not run.stamp.exists():
            hand_made = run.folder.exists()
            return Standing(f"missing: {shown(run.folder)} was made by hand" if hand_made else "missing")
        try:
            stamp = read_json(run.stamp)
            summary = read_json(summary_file) if summary_file.exists() else None
            about = read_json(run.folder / "run.json") if summary else None
        except Problem as problem:
            return Standing(f"missing: {problem}")
        if not agrees(stamp, identity):
            return Standing("outdated: its recipe or its settings have changed since")
        if summary is None:
            code = stamp.get("exit")
            if code == 0:
                return Standing(f"missing: {shown(summary_file)} is gone, though {shown(run.stamp)} is there")
            return Standing("unfinished" if code is None else f"failed: exit {code}, see {shown(run.log)}")
        if summary.get("status") != "complete":
            return Standing(f"failed: {str(summary.get('status')).replace('_', ' ')}, see {shown(run.log)}")
        if not self.of_this_network(run, summary):
            return Standing("outdated: its float network has changed since")
        if run.mode.id == FLOAT and not run.float_file.exists():
            return Standing(f"missing: {shown(run.float_file)} is gone")
        try:
            return Standing("finished", self.record(run, stamp, summary, about), folder=True)
        except (KeyError, TypeError) as error:
            return Standing(f"missing: {shown(summary_file)} is not what this script reads ({error})")

    def of_this_network(self, run, figures):
        """Whether figures are those of the network file that a run would start from now."""
        now = sha256_of_file(run.model)
        if now is None and run.mode.id != FLOAT:
            kept = self.kept.get(self.plan.floats[run.network.id].id)
            now = kept and kept.get("float_file_sha256")
        return now in (None, figures.get("model_sha256"))

    def record(self, run, stamp, summary, about):
        described = {"id": run.id, "network": run.network.id, "mode": run.mode.id, "target": run.target}
        figures = {key: summary.get(key) if key in LATER else summary[key] for key in FIGURES}
        record = described | {"seed": run.seed} | figures
        record |= {"recipe_mode": summary["mode"], "training_images": training_images(run.folder)}
        # Stamps of an older version of this script don't name the build; run.json's commit is the one at the run's start.
        record |= {"git_commit": stamp["git_commit"] if "git_commit" in stamp else about["git_commit"]}
        record |= {"binary_sha256": stamp.get("binary_sha256")}
        record |= {key: about[key] for key in ("device", "threads")}
        record |= {"machine": stamp["machine"], "jobs": stamp["jobs"], "command": run.command_line()}
        record |= {key: stamp[key] for key in ("recipe_text_sha256", "settings")}
        if run.mode.id == FLOAT:
            record["float_file_sha256"] = sha256_of_file(run.float_file)
        return record

    def save(self, records):
        """Keeps figures, one run a line."""
        lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records)
        write_atomically(self.path, f'{{"runs": [\n{lines}\n]}}\n')


def agrees(figures, identity):
    return all(figures.get(key) == value for key, value in identity.items())


def stale(words, figures, why):
    return Standing(f"{words}; stale figures of an earlier run exist", earlier={**figures, STALE: why})


def training_images(folder):
    """How many images a run has trained on, steps times batch; None where its files don't tell."""
    try:
        recipe = (folder / "recipe.resolved.yaml").read_text(encoding="utf-8")
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        events = [json.loads(line) for line in lines if '"stage_started"' in line]
        steps = sum({event["index"]: event["steps"] for event in events}.values())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    batch = re.search(r"^  batch_size: (\d+)$", recipe, re.MULTILINE)
    return steps * int(batch[1]) if batch else None
