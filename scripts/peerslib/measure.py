"""Takes times and peaks of memory: the peers' in this process, dimbit's in one that waits for its turn."""

import json
import subprocess
import sys
import time
from contextlib import suppress

# Steps after which a row's memory has reached its peak; dimbit's own bench takes as many.
PEAK_STEPS = 5


class Dimbit:
    """`dimbit bench`, one round for each line that it is given."""

    def __init__(self, binary, model, rounds, arguments, quiet=False):
        command = [binary, "bench", model, "--steps", rounds, "--paced", *arguments]
        self.process = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if quiet else None, text=True)

    def _line(self):
        line = self.process.stdout.readline()
        if not line:
            errors = self.process.stderr.read() if self.process.stderr else ""
            raise RuntimeError(f"dimbit bench ended with code {self.process.wait()}: {errors.strip() or 'see above'}")
        return json.loads(line)

    def round(self):
        """Runs a round. Returns whether it counts and the milliseconds of each row; the first call waits for the calibration."""
        with suppress(BrokenPipeError):  # the missing answer tells more
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        line = self._line()
        return line["counts"], {f"dimbit-{name}": ms for name, ms in line["ms"].items()}

    def peaks(self):
        """After the last round: the peak memory of each row in bytes."""
        report = self._line()
        self.process.wait()
        return {f"dimbit-{row['name']}": row["peak_bytes"] for row in report["rows"]}

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()


def times(binary, model, network, names, joint, options, say):
    """Milliseconds of each row, a list with one for each round that counts, and dimbit's peaks.

    `joint`: the transform of dimbit's rows joint and joint-target, and the bits of the latter."""
    import torch

    from peerslib.rows import Row

    torch.set_num_threads(options.threads)
    transform, target_bits = joint
    arguments = [
        "--input", f"3x{options.size}x{options.size}", "--batch", options.batch, "--threads", options.threads, "--device", "cpu",
        "--target-bits", target_bits, "--transform", transform,
    ]
    dimbit = Dimbit(binary, model, options.rounds, arguments, options.quiet)
    try:
        # While dimbit calibrates, nothing is measured yet.
        rows = [(name, Row(name, network, options.batch, options.size)) for name in names]
        found = {}
        done = 0
        while done < options.rounds:
            counts, milliseconds = dimbit.round()
            for name, row in rows:
                began = time.perf_counter()
                row.step()
                milliseconds[name] = 1e3 * (time.perf_counter() - began)
            if counts:
                done += 1
                for name, ms in milliseconds.items():
                    found.setdefault(name, []).append(ms)
            say(f"{network}: " + (f"round {done} of {options.rounds}" if counts else "warming up"))
        del rows
        say(f"{network}: peak memory of dimbit's rows")
        return found, dimbit.peaks()
    finally:
        dimbit.stop()


def peak(script, network, name, options):
    """The peak resident set in bytes of a peer's row in a process of its own."""
    command = [sys.executable, script, "--networks", network, "--batch", options.batch, "--size", options.size,
               "--threads", options.threads, "--peak-of", name]
    ended = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if ended.returncode != 0:
        raise RuntimeError(f"the peak memory of {name} can't be measured: {ended.stderr.strip()}")
    return json.loads(ended.stdout)["peak_bytes"]


def own_peak(network, name, options):
    """What a process that `peak` started measures of itself."""
    import torch

    from peerslib.rows import Row

    torch.set_num_threads(options.threads)
    row = Row(name, network, options.batch, options.size)
    for _ in range(PEAK_STEPS):
        row.step()
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return None
