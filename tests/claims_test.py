"""scripts/claims against a stand-in for dimbit: what is run again, what fails, what the report says; scripts/plot-run."""

import json
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "scripts"))

from claimslib.fronts import Bits, Point, bits_at, ratio, upper_front  # noqa: E402
from claimslib.records import FIGURES, LATER  # noqa: E402
from claimslib.report import in_words, method_page, percent  # noqa: E402

# Accuracy rises with the bits; `fail` in a recipe's settings or a file `broken` ends it, `sleep` lets it hang.
DIMBIT = """#!/usr/bin/env python3
import hashlib, json, os, sys, time
from pathlib import Path
command, recipe, *rest = sys.argv[1:]
settings = dict(pair.split("=", 1) for flag, pair in zip(rest, rest[1:]) if flag == "--set")
if command == "explain":
    if "wrong" in settings:
        print("error: unknown key wrong", file=sys.stderr)
    sys.exit("wrong" in settings)
assert os.environ["OMP_NUM_THREADS"] == "1"
out = Path(rest[rest.index("--out") + 1])
out.mkdir(parents=True)
with open(Path(sys.argv[0]).parent.parent / "calls", "a") as calls:
    calls.write(out.name + "\\n")
if "fail" in settings or (Path(sys.argv[0]).parent.parent / "broken").exists():
    sys.exit("the loss is not finite")
time.sleep(float(settings.get("sleep", 0)))
mode, seed = Path(recipe).stem, int(settings["seed"])
bits = float(settings.get("bits", 32))
if mode == "float":
    (out / "checkpoints").mkdir()
    (out / "checkpoints/float.pt").write_text(json.dumps(settings))
model = hashlib.sha256(Path(settings["model.path"]).read_bytes()).hexdigest()
top1 = 90 if mode == "float" else 90 - (2 if mode == "mp" else 1) * 2 / bits + 0.1 * seed
about = {"git_commit": 40 * "a", "device": "cpu", "threads": 1}
(out / "run.json").write_text(json.dumps(about))
(out / "recipe.resolved.yaml").write_text("data:\\n  batch_size: 128\\n")
stages = [{"event": "stage_started", "index": at, "steps": steps} for at, steps in enumerate([0, 240, 120])]
(out / "metrics.jsonl").write_text("".join(json.dumps(stage) + "\\n" for stage in stages))
(out / "summary.json").write_text(json.dumps({
    "status": "complete", "mode": mode, "float_top1": 90, "top1": top1, "bits_per_value": bits,
    "bits_per_value_stored": bits + 3, "bits_per_value_entropy": None if mode == "float" else 0.8 * bits,
    "dropped_fraction": 0.25, "mac_overhead_percent": 12.5, "mac_overhead_unfolded_percent": 20.5, "side_information_bytes": 41000, "seconds": 61.0,
    "images_per_second": 800.0, "recipe_sha256": "ab", "model_sha256": model, "dimbit_version": "0.1.0",
}))
"""


def plan_of(folder, runs):
    def mode(name, target=None):
        return {"title": name, "recipe": str(folder / f"{name}.yaml"), "about": "a mode."} | ({"target": target} if target else {})

    return {
        "about": "A test.", "test_images": 10000, "prepare": [],
        "networks": {"net": {"title": "Net", "model": str(folder / "net.pt"), "export": f"echo net >{folder}/net.pt",
                             "float": {}, "paper": {"mp": 55}}},
        "modes": {"float": mode("float"), "mp": mode("mp", "bits"), "joint": mode("joint", "bits")},
        "runs": runs,
    }


def claim(mode, target, seed=0, **other):
    return {"id": f"{mode}-{target}-{seed}", "network": "net", "mode": mode, "target": target, "seed": seed,
            "purpose": "claim"} | other


class Claims(unittest.TestCase):
    def setUp(self):
        kept = tempfile.TemporaryDirectory()
        self.addCleanup(kept.cleanup)
        self.folder = Path(kept.name)
        (self.folder / "dimbit").write_text(DIMBIT)
        (self.folder / "dimbit").chmod(0o755)
        (self.folder / "base.yaml").write_text("version: 1\n")
        for mode in ("float", "mp", "joint"):
            (self.folder / f"{mode}.yaml").write_text("# A comment.\nextends: base.yaml\n")

    def plan(self, *runs):
        (self.folder / "plan.json").write_text(json.dumps(plan_of(self.folder, runs)))

    def command(self, *arguments):
        return [sys.executable, "-B", str(ROOT / "scripts/claims"), *arguments, "--plan", str(self.folder / "plan.json"), "--runs",
                str(self.folder / "runs"), "--docs", str(self.folder / "docs"), "--binary", str(self.folder / "dimbit"), "--jobs", "2"]

    def claims(self, *arguments, code=0):
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stdout + done.stderr

    def calls(self):
        """The runs that were started since the last call."""
        file = self.folder / "runs/calls"
        names = sorted(file.read_text().split()) if file.exists() else []
        file.unlink(missing_ok=True)
        return names

    def page(self):
        return (self.folder / "docs/results.md").read_text()

    def test_only_what_is_not_finished_or_has_changed_is_run(self):
        self.plan(claim("joint", 2), claim("joint", 1))
        self.claims("run")
        self.assertEqual(self.calls(), ["float-net", "joint-1-0", "joint-2-0"])
        self.assertIn("all 3 runs are finished", self.claims("run"))
        # A comment changes nothing, a half-done folder and a changed setting do.
        (self.folder / "base.yaml").write_text("# Another comment.\nversion: 1\n")
        (self.folder / "runs/joint-1-0/summary.json").unlink()
        self.claims("run")
        self.assertEqual(self.calls(), ["joint-1-0"])
        self.plan(claim("joint", 2, set={"key": "value"}), claim("joint", 1))
        self.assertIn("outdated", self.claims("plan"))
        self.claims("run", "--only", "^joint-2")
        self.assertEqual(self.calls(), ["joint-2-0"])
        # Another float network, by what its recipe extends: everything that starts from it, too.
        (self.folder / "net.pt").write_text("another")
        self.claims("run", "--only", "^joint-2")
        self.assertEqual(self.calls(), ["float-net"])
        (self.folder / "base.yaml").write_text("version: 1\nname: other\n")
        self.claims("run")
        self.assertEqual(self.calls(), ["float-net", "joint-1-0", "joint-2-0"])

    def test_a_failing_run_stops_no_other_and_is_named(self):
        self.plan(claim("joint", 1, set={"fail": 1}), claim("joint", 2, set={"wrong": 1}), claim("joint", 3))
        said = self.claims(code=4)
        self.assertIn("joint-1-0  FAILED: exit 1", said)
        self.assertIn("    the loss is not finite", said)
        self.assertIn("joint-2-0  FAILED: its recipe is wrong", said)
        self.assertIn("joint-3-0  89.33 % at 3.00 bits", said)
        page = self.page()
        self.assertIn("2 of 4 runs are measured", page)
        self.assertIn("* `joint-1-0`: failed: exit 1", page)
        self.assertIn("| joint | 2 | 0 | not measured |", page)

    def test_a_float_network_that_fails_takes_its_runs_with_it(self):
        self.plan(claim("joint", 1))
        plan = json.loads((self.folder / "plan.json").read_text())
        plan["networks"]["net"]["float"] = {"set": {"fail": 1}}
        (self.folder / "plan.json").write_text(json.dumps(plan))
        self.assertIn("joint-1-0  FAILED: there is no float network", self.claims("run", code=4))

    def test_an_interruption_ends_the_children_and_keeps_what_is_finished(self):
        self.plan(claim("joint", 1), claim("joint", 2, set={"sleep": 60}))
        # In the background of a script Ctrl-C is ignored, and stays so in children: not in this one.
        process = subprocess.Popen(self.command("run"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                   preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
        limit = time.monotonic() + 30
        while not ((self.folder / "runs/joint-2-0").exists() and (self.folder / "runs/joint-1-0/summary.json").exists()):
            self.assertLess(time.monotonic(), limit)
            time.sleep(0.05)
        self.assertIn("carried out already", self.claims("run", code=1))
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 3, said)
        listed = self.claims("plan")
        self.assertRegex(listed, r"joint-1-0 +claim +finished")
        self.assertRegex(listed, r"joint-2-0 +claim +unfinished")

    def test_the_report_keeps_notes_and_figures_without_the_runs(self):
        self.plan(claim("joint", 1), claim("joint", 4), claim("joint", 4, 1), claim("mp", 2), claim("mp", 4), claim("mp", 8), claim("mp", 0.5),
                  {"id": "other", "network": "net", "mode": "joint", "target": 1, "purpose": "ablation", "set": {"key": "x"}, "note": "changed"})
        self.claims()
        page = self.page()
        # mp at 2 bits has 88 %, as joint's lowest point at 1 bit has, so half of the bits do.
        self.assertIn("| mp | 88.00 | – | 2.00 | 1.00 | 50 % | 55 % |", page)
        self.assertIn("| mp | 82.00 | – | 0.50 | ≤ 1.00 | ≥ −100 % | 55 % |", page)
        # 89 % on the line from 88 % at 1 bit to 89.55 % at 4 bits: 4^(1/1.55) bits.
        self.assertIn("| mp | 89.00 | – | 4.00 | 2.45 | 39 % | 55 % |", page)
        self.assertIn("| joint | 4 | 2 of 2 | 89.55 | 89.50 to 89.60 | 0.10 |", page)
        self.assertIn("| nothing | – | 88.00 | – | 1.00 | 12.5 | 20.5 | `joint-1-0` |\n"
                      "| changed | `key=x` | 88.00 | +0.00 | 1.00 | 12.5 | 20.5 | `other` |", page)
        self.assertIn("its steps times the batch): float, mp, joint: 46,080.", page)
        self.assertIn("They are of one build on one machine", page)
        ElementTree.parse(self.folder / "docs/results/net-front.svg")
        (self.folder / "docs/results.md").write_text(page.replace("<!-- notes -->\n", "<!-- notes -->\nBy hand.\n"))
        for file in list((self.folder / "runs").iterdir()):
            file.rename(self.folder / ("moved-" + file.name))
        self.claims("report")
        self.assertEqual(self.page(), page.replace("<!-- notes -->\n", "<!-- notes -->\nBy hand.\n"))
        (self.folder / "docs/results.md").write_text("no markers")
        self.assertIn("must have one line", self.claims("report", code=1))

    def stamp(self, name, change):
        """Changes what a run was started with."""
        file = self.folder / f"runs/{name}.json"
        stamp = json.loads(file.read_text())
        change(stamp)
        file.write_text(json.dumps(stamp))

    def kept(self):
        """The figures in the report's file, by the runs' ids."""
        return {record["id"]: record for record in json.loads((self.folder / "docs/results/claims.json").read_text())["runs"]}

    def forget(self, name):
        """Takes away a run with its stamp, as on another machine."""
        (self.folder / f"runs/{name}").rename(self.folder / f"{name}-{time.monotonic_ns()}")
        (self.folder / f"runs/{name}.json").unlink()

    def test_a_newer_attempt_that_failed_hides_the_older_figures_but_keeps_them(self):
        self.plan(claim("joint", 1))
        self.claims()
        before = self.kept()
        (self.folder / "runs/joint-1-0/summary.json").unlink()
        (self.folder / "runs/broken").touch()
        self.claims("run", code=4)
        self.claims("report")
        self.assertRegex(self.page(), r"\* `joint-1-0`: failed: exit 1, see .*; figures of an earlier run exist")
        self.assertIn("| joint | 1 | 0 | not measured |", self.page())
        self.stamp("joint-1-0", lambda stamp: stamp.pop("exit"))
        self.claims("report")
        self.assertIn("* `joint-1-0`: unfinished; figures of an earlier run exist", self.page())
        self.assertEqual(self.kept(), before)
        # Without a newer attempt they count again, be they of an older version of the script.
        self.forget("joint-1-0")
        for key in ("mac_overhead_unfolded_percent", "training_images", "binary_sha256"):
            before["joint-1-0"].pop(key)
        (self.folder / "docs/results/claims.json").write_text(json.dumps({"runs": list(before.values())}))
        self.claims("report")
        self.assertIn("2 of 2 runs are measured", self.page())
        self.assertRegex(self.page(), r"\| 12.5 \| – \| 41 \| 61 \| `joint-1-0` \|")

    def test_figures_of_another_float_network_are_kept_as_stale(self):
        self.plan(claim("joint", 1))
        self.claims()
        self.forget("joint-1-0")
        # What the float run writes is its settings, so these make it another network.
        plan = json.loads((self.folder / "plan.json").read_text())
        plan["networks"]["net"]["float"] = {"set": {"key": "other"}}
        (self.folder / "plan.json").write_text(json.dumps(plan))
        self.claims("run", "--only", "^float")
        for _ in range(2):
            self.assertIn("joint-1-0: the figures of an earlier run are stale, as its float network has changed", self.claims("report"))
            self.assertEqual(self.kept()["joint-1-0"]["stale"], "its float network has changed since")
            self.assertIn("* `joint-1-0`: missing; stale figures of an earlier run exist", self.page())
        self.assertNotIn("stale", self.claims())
        self.assertNotIn("stale", self.kept()["joint-1-0"])

    def test_what_was_made_by_hand_is_not_removed(self):
        self.plan(claim("joint", 1))
        by_hand = self.folder / "runs/joint-1-0/summary.json"
        by_hand.parent.mkdir(parents=True)
        by_hand.touch()
        self.assertRegex(self.claims("run", code=1), "joint-1-0 is not of this script.* move it away")
        self.assertEqual((self.calls(), by_hand.exists()), ([], True))

    def test_runs_of_several_builds_are_told_apart(self):
        self.plan(claim("joint", 1), claim("joint", 2))
        self.claims("run")
        # As an older version of the script has written it; it stays finished.
        self.stamp("joint-1-0", lambda stamp: (stamp.pop("git_commit"), stamp.pop("binary_sha256")))
        self.assertIn("all 3 runs are finished", self.claims())
        page = self.page()
        self.assertIn("* dimbit 0.1.0 at commit aaaaaaa, binary not recorded: `joint-1-0`\n", page)
        self.assertRegex(page, r"\* dimbit 0.1.0 at commit .+, binary [0-9a-f]{12}: `float-net`, `joint-2-0`\n")
        self.assertIn("They are not known to be of one build", page)
        self.assertNotIn("nothing else", page)

    def test_a_claims_own_settings_are_shown(self):
        self.plan(claim("joint", 1, set={"key": 0.5}, note="changed"), claim("joint", 1, 1, set={"key": 0.5}))
        self.claims()
        self.assertIn("* `joint-1-0`: changed; `key=0.5`\n* `joint-1-1`: `key=0.5`\n", self.page())

    def test_figures_are_what_summaries_have(self):
        summary = json.loads((ROOT / "docs/results/fashion-mnist-resnet18-joint.json").read_text())
        self.assertLessEqual(set(FIGURES) - LATER, set(summary))

    def test_a_page_in_a_folder_of_the_book_leads_to_the_method(self):
        book = ROOT / "docs"
        pages = [book, book / "learned-bases", Path("/elsewhere")]
        self.assertEqual([method_page(page) for page in pages], ["method.md", "../method.md", "method.md"])

    def test_the_plans_that_ship_can_be_read(self):
        for plan in ("claims", "bases"):
            file = ROOT / f"recipes/fashion-mnist/{plan}.json"
            command = [sys.executable, "-B", str(ROOT / "scripts/claims"), "plan", "--plan", str(file)]
            listed = subprocess.run(command, capture_output=True, text=True)
            self.assertEqual(listed.returncode, 0, listed.stderr)
            self.assertIn("resnet18-joint-2.16", listed.stdout)

    def test_a_wrong_plan_is_refused_by_name(self):
        for runs, words in (
            ([claim("joint", 1, model="x")], "joint-1-0: unknown key model"),
            ([claim("joint", 1), claim("joint", 1, id="again")], "again: joint-1-0 is the same claim"),
            ([claim("joint", 1, purpose="ablation", set={"key": 1})], "nothing to compare it with"),
            ([claim("dr", 1)], "there is no mode dr"),
            ([claim("joint", 1), claim("joint", 1, 1, set={"key": 1})], "joint-1-1: joint-1-0 is the same point with another seed"),
            ([claim("joint", 1), claim("joint", 1, 1, recipe="other.yaml")], "joint-1-1: joint-1-0 is the same point"),
        ):
            self.plan(*runs)
            self.assertIn(words, self.claims("plan", code=1))


class Fronts(unittest.TestCase):
    def test_least_bits_at_an_accuracy(self):
        points = [Point(0, bits, top1, top1, top1, (0,)) for bits, top1 in ((1, 80), (2, 79), (4, 90), (8, 90))]
        self.assertEqual([point.bits for point in upper_front(points)], [1, 4])
        self.assertAlmostEqual(bits_at(points, 85).value, 2)
        self.assertEqual(bits_at(points, 80), Bits(1))
        self.assertEqual(bits_at(points, 75), Bits(1, bound=True))
        self.assertIsNone(bits_at(points, 91))
        self.assertIsNone(bits_at([], 80))

    def test_what_follows_from_bounds(self):
        exact, bound = Bits(2.0), Bits(1.0, bound=True)
        self.assertEqual(ratio(exact, Bits(4.0)), ("=", 0.5))
        self.assertEqual(ratio(bound, Bits(4.0)), ("≤", 0.25))
        self.assertEqual(ratio(exact, bound), ("≥", 2.0))
        self.assertIsNone(ratio(bound, bound))
        self.assertIsNone(ratio(None, exact))

    def test_bounds_are_not_rounded_past_the_truth(self):
        self.assertEqual([percent((sign, 0.334)) for sign in "=≤≥"], ["67 %", "≥ 66 %", "≤ 67 %"])
        self.assertEqual([percent((sign, 1.004)) for sign in "=≤≥"], ["−0.4 %", "≥ −0.4 %", "≤ −0.4 %"])
        self.assertEqual([percent((sign, 1.0002)) for sign in "=≤≥"], ["0.0 %", "≥ −0.1 %", "≤ 0.0 %"])
        # 100·(1 − 0.42) is a little below 58 in floating point.
        self.assertEqual(percent(("≤", 0.42)), "≥ 58 %")
        self.assertEqual([in_words(Bits(0.602, bound)) for bound in (False, True)], ["0.60", "≤ 0.61"])


class PlotRun(unittest.TestCase):
    def test_a_run_without_a_search_is_drawn_from_its_fine_tune_on(self):
        events = [
            {"event": "run_started", "name": "uniform"},
            {"event": "evaluated", "step": 0, "top1": 88.0, "bits": None},
            {"event": "evaluated", "step": 0, "top1": 80.0, "bits": 4.0},
            {"event": "stage_started", "stage": "finetune", "steps": 40},
            {"event": "step", "step": 20, "bits": 4.0, "budget_bits": None},
            {"event": "evaluated", "step": 40, "top1": 87.0, "bits": 4.0},
        ]
        site = {"name": "relu", "values": 16, "transform": "none", "bits_per_value": 4.0, "groups": [{"channels": 1, "bits": 4}]}
        summary = {"sites": [site], "mode": "uniform", "float_top1": 88.0, "top1": 87.0, "bits_per_value": 4.0, "target_bits": None,
                   "dropped_fraction": 0.0, "status": "complete"}
        with tempfile.TemporaryDirectory() as kept:
            folder = Path(kept)
            (folder / "summary.json").write_text(json.dumps(summary))
            (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
            command = [sys.executable, "-B", str(ROOT / "scripts/plot-run"), str(folder), "--out", str(folder / "run.svg")]
            done = subprocess.run(command, capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            picture = (folder / "run.svg").read_text()
        ElementTree.fromstring(picture)
        self.assertIn(">fine-tune<", picture)
        self.assertNotIn(">budget<", picture)


if __name__ == "__main__":
    unittest.main()
