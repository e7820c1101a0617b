"""scripts/bench-peers without PyTorch: figures, tables, and the page that they are put into."""

import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "scripts"))

from peerslib import results  # noqa: E402


def measured():
    times = {
        "pytorch-float": [100.0, 102.0, 98.0, 101.0],
        "lsq": [150.0, 150.0, 151.0, 149.0],
        "dimbit-float": [80.0, 80.0, 80.0, 80.0],
        "dimbit-joint": [100.0, 100.0, 120.0, 90.0],
    }
    peaks = {"pytorch-float": 400_000_000, "lsq": 500_000_000, "dimbit-float": 300_000_000, "dimbit-joint": None}
    how = {"machine": "a machine", "threads": 2, "batch": 16, "size": 224, "rounds": 4, "torch": "2.11.0", "torchvision": "0.26.0", "brevitas": "0.13.4", "dimbit": "0.1.0"}
    return {"measured": how, "networks": [{"network": "resnet18", "transform": "pca", "target_bits": 2.16, "rows": results.rows(times, peaks)}]}


class Results(unittest.TestCase):
    def test_each_row_is_related_to_both_floats(self):
        rows = {row["name"]: row for row in measured()["networks"][0]["rows"]}
        lsq, joint = rows["lsq"], rows["dimbit-joint"]
        self.assertAlmostEqual(lsq["ratio_to_pytorch_float"], 150 / 100.5)
        self.assertEqual(lsq["ratio_to_own_float"], lsq["ratio_to_pytorch_float"])
        self.assertEqual(lsq["peak_ratio_to_own_float"], 1.25)
        self.assertAlmostEqual(joint["ratio_to_pytorch_float"], 100 / 100.5)
        self.assertEqual((joint["ratio_to_own_float"], joint["peak_ratio_to_own_float"]), (1.25, None))
        self.assertEqual(joint["quartiles_ms"], [97.5, 105.0])
        self.assertEqual(results.quartiles([3.0]), [3.0, 3.0])

    def test_tables_say_what_was_measured(self):
        text = results.markdown(measured())
        self.assertIn("| lsq | 150.0 | 149.8–150.2 | 1.49 | 1.49 | 500 | 1.25 |", text)
        self.assertIn("| dimbit-joint | 100.0 | 97.5–105.0 | 1.00 | 1.25 | – | – |", text)
        self.assertIn("a machine, 2 threads, batch 16", text)

    def test_the_page_is_filled_again_and_again_between_its_marks(self):
        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder) / "page.md"
            page.write_text((ROOT / "docs/performance.md").read_text(encoding="utf-8"), encoding="utf-8")
            results.write_docs(page, measured())
            once = page.read_text(encoding="utf-8")
            self.assertIn("| lsq |", once)
            self.assertIn("## The quantizer alone", once)
            results.write_docs(page, measured())
            self.assertEqual(page.read_text(encoding="utf-8"), once)
            page.write_text("no marks", encoding="utf-8")
            with self.assertRaises(ValueError):
                results.write_docs(page, measured())


if __name__ == "__main__":
    unittest.main()
