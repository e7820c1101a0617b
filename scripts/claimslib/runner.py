"""Carries out the runs of a plan, several side by side."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .plan import FLOAT, ROOT, Problem, sha256_of_file, shown
from .records import write_atomically
from .words import duration, plural

#: Lines of a failed run's log that are shown, and seconds that a stopped run may take to end.
TAIL, PATIENCE = 12, 10
#: Two libtorch jobs with several threads each slow each other down many times over.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@dataclass
class Job:
    run: object
    process: subprocess.Popen
    stamp: dict
    started: float


def carry_out(plan, records, options):
    """Runs what isn't finished, and returns how many runs have failed."""
    wanted = [run for run in plan.runs if not options.only or options.only.search(run.id)]
    if not wanted:
        raise Problem(f"no run's id has {options.only.pattern}; `scripts/claims plan` lists them")
    networks = {run.network.id for run in wanted}
    wanted = [run for run in plan.runs if run in wanted or run.mode.id == FLOAT and run.network.id in networks]
    finished = {run.id for run in wanted if records.standing(run).folder}
    # With its float network, all that a network's runs were started from changes, or may change.
    waiting = [run for run in wanted if not {run.id, plan.floats[run.network.id].id} <= finished]
    # Better now than after hours.
    for run in waiting:
        refuse_hand_made(run)
    if options.dry_run:
        for run in waiting:
            print(run.command_line())
        print(f"{plural(len(waiting), 'run')} of {len(wanted)} to do")
        return 0
    if not waiting:
        print(f"all {plural(len(wanted), 'run')} are finished")
        return 0
    if not os.access(options.binary, os.X_OK):
        raise Problem(f"{shown(options.binary)} is missing; build it with `cargo build --release`")
    plan.folder.mkdir(parents=True, exist_ok=True)
    with open(plan.folder / ".lock", "w") as lock, tempfile.TemporaryDirectory(dir=plan.folder, prefix=".bin-") as kept:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Problem(f"runs in {shown(plan.folder)} are being carried out already; wait for them") from None
        # A copy, so that a build meanwhile changes nothing.
        binary = shutil.copy2(options.binary, Path(kept) / "dimbit")
        return Runner(plan, records, options, binary, lock).run(waiting)


def prepare(plan, networks):
    """Fetches the data and makes the initial networks where they are missing."""
    steps = plan.prepare + [(network.model, network.export) for network in networks]
    for creates, command in steps:
        if (ROOT / creates).exists():
            continue
        print(f"{creates} is missing: {command}", flush=True)
        code = subprocess.run(command, shell=True, cwd=ROOT).returncode
        if code:
            raise Problem(f"`{command}` ended with exit {code}")
        if not (ROOT / creates).exists():
            raise Problem(f"`{command}` made no {creates}")


class Runner:
    def __init__(self, plan, records, options, binary, lock):
        self.plan, self.records, self.options, self.binary, self.lock = plan, records, options, binary, lock
        self.machine, self.build = options.machine or machine(), build(binary)
        self.jobs, self.failed = [], []

    def run(self, waiting):
        self.total, self.done, begun = len(waiting), 0, time.monotonic()
        print(f"{plural(self.total, 'run')} to do, {self.options.jobs} side by side", flush=True)
        prepare(self.plan, {run.network.id: run.network for run in waiting}.values())
        waiting = self.without_bad_recipes(waiting)
        # What is ignored stays so, as under nohup.
        stopping = [one for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
                    if signal.getsignal(one) != signal.SIG_IGN]
        handlers = {one: signal.signal(one, interrupt) for one in stopping}
        try:
            while waiting or self.jobs:
                while len(self.jobs) < self.options.jobs and (run := self.next_of(waiting)):
                    self.start(run)
                time.sleep(0.1)
                for job in [job for job in self.jobs if job.process.poll() is not None]:
                    self.jobs.remove(job)
                    self.end(job)
        except (KeyboardInterrupt, Problem):
            for one in handlers:
                signal.signal(one, signal.SIG_IGN)
            self.stop()
            raise
        finally:
            for one, handler in handlers.items():
                signal.signal(one, handler)
        print(f"{self.done - len(self.failed)} finished, {len(self.failed)} failed, "
              f"{duration(time.monotonic() - begun)}", flush=True)
        return len(self.failed)

    def without_bad_recipes(self, waiting):
        """Better now than after hours: `dimbit explain` reads a recipe without its network and data."""
        def check(run):
            command = [self.binary, "explain", *run.arguments()]
            return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, errors="replace")

        with ThreadPoolExecutor(self.options.jobs) as pool:
            checked = list(zip(waiting, pool.map(check, waiting)))
        for run, result in checked:
            if result.returncode:
                self.fail(run, "its recipe is wrong", result.stderr.strip().splitlines())
        return [run for run, result in checked if not result.returncode]

    def next_of(self, waiting):
        """Takes out the first run whose float network is there; those whose float network can't come have failed."""
        failed, running = self.failed, [job.run for job in self.jobs]
        for run in list(waiting):
            float_run = self.plan.floats[run.network.id]
            if run is float_run or float_run not in waiting + running + failed:
                waiting.remove(run)
                # Its float network may have come out the same as before.
                if run is float_run or not self.records.standing(run).folder:
                    return run
                self.done += 1
                self.say(f"{run.id}  is finished already")
            elif float_run in failed:
                waiting.remove(run)
                self.fail(run, f"there is no float network, as {float_run.id} failed")
        return None

    def start(self, run):
        refuse_hand_made(run)
        shutil.rmtree(run.folder, ignore_errors=True)
        stamp = {**run.identity(), **self.build, "machine": self.machine, "jobs": self.options.jobs}
        write_atomically(run.stamp, json.dumps(stamp, indent=1) + "\n")
        with open(run.log, "wb") as log:
            # In a session of its own, so that Ctrl-C reaches it through `stop` alone. It holds the lock, too: whatever
            # becomes of this process, nobody else starts while one of its runs goes on.
            process = subprocess.Popen(
                ["nice", "-n", str(self.options.nice), *run.command(self.binary)],
                cwd=ROOT, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True, pass_fds=[self.lock.fileno()],
            )
        self.jobs.append(Job(run, process, stamp, time.monotonic()))

    def end(self, job):
        code = job.process.returncode
        write_atomically(job.run.stamp, json.dumps({**job.stamp, "exit": code}, indent=1) + "\n")
        standing = self.records.standing(job.run)
        if standing.folder:
            self.done += 1
            record = standing.record
            bits = "" if job.run.mode.id == FLOAT else f" at {record['bits_per_value']:.2f} bits (float {record['float_top1']:.2f} %)"
            self.say(f"{job.run.id}  {record['top1']:.2f} %{bits}  {duration(record['seconds'])}")
        else:
            how = f"signal {-code}" if code < 0 else f"exit {code}"
            lines = job.run.log.read_text(encoding="utf-8", errors="replace").splitlines()
            self.fail(job.run, f"{how}, log {shown(job.run.log)}", lines[-TAIL:])

    def fail(self, run, why, lines=()):
        self.done += 1
        self.failed.append(run)
        self.say(f"{run.id}  FAILED: {why}")
        for line in lines:
            print(f"    {line}", flush=True)

    def say(self, text):
        print(f"[{self.done:{len(str(self.total))}}/{self.total}] {text}", flush=True)

    def stop(self):
        """Ends all runs. What they leave is begun anew next time."""
        for job in self.jobs:
            self.send(job, signal.SIGTERM)
        limit = time.monotonic() + PATIENCE
        for job in self.jobs:
            try:
                job.process.wait(max(0, limit - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.send(job, signal.SIGKILL)
                job.process.wait()

    @staticmethod
    def send(job, one):
        try:
            os.killpg(job.process.pid, one)
        except ProcessLookupError:
            pass


def interrupt(_number, _frame):
    raise KeyboardInterrupt


def refuse_hand_made(run):
    """What this script didn't make it doesn't remove."""
    if run.folder.exists() and not run.stamp.exists():
        raise Problem(f"{shown(run.folder)} is not of this script, as there is no {shown(run.stamp)}, and is not removed; "
                      "move it away, or remove it if it may be lost, and start again")


def build(binary):
    """What tells builds apart; the commit is the project's, which the binary need not be of, hence its hash."""
    try:
        describe = ["git", "describe", "--always", "--dirty", "--abbrev=7"]
        result = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True, errors="replace")
        commit = result.stdout.strip() if result.returncode == 0 else None
    except OSError:
        commit = None
    return {"git_commit": commit, "binary_sha256": sha256_of_file(Path(binary))}


def machine():
    """`2 cores of AMD EPYC 7B13, 24 GB of memory`, as far as it can be read."""
    about = {}
    for path in ("/proc/cpuinfo", "/proc/meminfo"):
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except OSError:
            continue
        about |= {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    cores = plural(len(os.sched_getaffinity(0)), "core")
    text = f"{cores} of {about['model name']}" if "model name" in about else cores
    memory = about.get("MemTotal", "").split()
    return f"{text}, {int(memory[0]) / 1e6 * 1.024:.0f} GB of memory" if memory else text
