"""scripts/claims against a stand-in for dimbit: what is run again, what fails, what the report says."""

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

# Accuracy rises with the bits; `fail` in a recipe's settings ends it with exit code 4, `sleep` lets it hang.
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
if "fail" in settings:
    sys.exit("the loss is not finite")
time.sleep(float(settings.get("sleep", 0)))
mode, seed = Path(recipe).stem, int(settings["seed"])
bits = float(settings.get("bits", 32))
if mode == "float":
    (out / "checkpoints").mkdir()
    (out / "checkpoints/float.pt").write_text(json.dumps(settings))
model = hashlib.sha256(Path(settings["model.path"]).read_bytes()).hexdigest()
top1 = 90 if mode == "float" else 90 - (2 if mode == "mp" else 1) * 2 / bits + 0.1 * seed
about = {"git_commit": None, "device": "cpu", "threads": 1}
(out / "run.json").write_text(json.dumps(about))
(out / "summary.json").write_text(json.dumps({
    "status": "complete", "mode": mode, "float_top1": 90, "top1": top1, "bits_per_value": bits,
    "bits_per_value_stored": bits + 3, "bits_per_value_entropy": None if mode == "float" else 0.8 * bits,
    "dropped_fraction": 0.25, "mac_overhead_percent": 12.5, "side_information_bytes": 41000, "seconds": 61.0,
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
        process = subprocess.Popen(self.command("run"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
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
        self.assertIn("| mp | 88.00 | 2.00 | 1.00 | 50 % | 55 % |", page)
        self.assertIn("| mp | 82.00 | 0.50 | ≤ 1.00 | ≥ −100 % | 55 % |", page)
        # 89 % on the line from 88 % at 1 bit to 89.55 % at 4 bits: 4^(1/1.55) bits.
        self.assertIn("| mp | 89.00 | 4.00 | 2.45 | 39 % | 55 % |", page)
        self.assertIn("| joint | 4 | 2 of 2 | 89.55 | 89.50 to 89.60 | 0.10 |", page)
        self.assertIn("| changed | `key=x` | 88.00 | +0.00 | 1.00 | 12.5 | `other` |", page)
        ElementTree.parse(self.folder / "docs/results/net-front.svg")
        (self.folder / "docs/results.md").write_text(page.replace("<!-- notes -->\n", "<!-- notes -->\nBy hand.\n"))
        for file in list((self.folder / "runs").iterdir()):
            file.rename(self.folder / ("moved-" + file.name))
        self.claims("report")
        self.assertEqual(self.page(), page.replace("<!-- notes -->\n", "<!-- notes -->\nBy hand.\n"))
        (self.folder / "docs/results.md").write_text("no markers")
        self.assertIn("must have one line", self.claims("report", code=1))

    def test_the_plan_that_ships_can_be_read(self):
        listed = subprocess.run([sys.executable, "-B", str(ROOT / "scripts/claims"), "plan"], capture_output=True, text=True)
        self.assertEqual(listed.returncode, 0, listed.stderr)
        self.assertIn("resnet18-joint-2.16", listed.stdout)

    def test_a_wrong_plan_is_refused_by_name(self):
        for runs, words in (
            ([claim("joint", 1, model="x")], "joint-1-0: unknown key model"),
            ([claim("joint", 1), claim("joint", 1, id="again")], "again: joint-1-0 is the same claim"),
            ([claim("joint", 1, purpose="ablation", set={"key": 1})], "nothing to compare it with"),
            ([claim("dr", 1)], "there is no mode dr"),
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


if __name__ == "__main__":
    unittest.main()
