"""How each run stands, and the figures of those that are finished."""

import json
import os
from dataclasses import dataclass

from .plan import FLOAT, Problem, as_text, read_json, sha256_of_file, shown

#: What is kept of a summary.
FIGURES = [
    "status", "top1", "float_top1", "bits_per_value", "bits_per_value_stored", "bits_per_value_entropy",
    "dropped_fraction", "mac_overhead_percent", "side_information_bytes", "seconds", "images_per_second",
    "recipe_sha256", "model_sha256", "dimbit_version",
]


@dataclass(frozen=True)
class Standing:
    """`record`: the figures, if there are any that still hold; `folder`: whether they are those of its folder."""

    words: str
    record: dict | None = None
    folder: bool = False


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
            return Standing(f"missing: {problem}")
        standing = self.of_folder(run, identity)
        kept = self.kept.get(run.id)
        if standing.record is None and kept and agrees(kept, identity) and self.of_this_network(run, kept):
            return Standing(f"recorded ({standing.words})", kept)
        return standing

    def of_folder(self, run, identity):
        summary_file = run.folder / "summary.json"
        if not run.stamp.exists():
            return Standing("missing")
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
        record = described | {"seed": run.seed} | {key: summary[key] for key in FIGURES}
        record |= {"recipe_mode": summary["mode"]}
        record |= {key: about[key] for key in ("git_commit", "device", "threads")}
        record |= {"machine": stamp["machine"], "jobs": stamp["jobs"], "command": as_text(run.command())}
        record |= {key: stamp[key] for key in ("recipe_text_sha256", "settings")}
        if run.mode.id == FLOAT:
            record["float_file_sha256"] = sha256_of_file(run.float_file)
        return record

    def save(self, records):
        """Keeps the figures of finished runs, one run a line."""
        lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records)
        write_atomically(self.path, f'{{"runs": [\n{lines}\n]}}\n')


def agrees(figures, identity):
    return all(figures.get(key) == value for key, value in identity.items())
