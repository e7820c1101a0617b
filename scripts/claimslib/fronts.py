"""Accuracy against bits: a mode's points, its front, and modes compared along their fronts."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """One mode at one target: the mean over the seeds that are measured, and the accuracies' range."""

    target: float
    bits: float
    top1: float
    low: float
    high: float
    seeds: tuple


@dataclass(frozen=True)
class Bits:
    """Where a front reaches an accuracy; `bound` where its lowest point reaches it already, so it may be lower."""

    value: float
    bound: bool = False


def points_by_mode(claims):
    """The points of every mode, by rising bits, from `(run, record)` pairs."""
    together = {}
    for run, record in claims:
        together.setdefault((run.mode.id, run.target), []).append((run, record))
    modes = {}
    for (mode, target), members in together.items():
        top1 = [record["top1"] for _, record in members]
        bits = sum(record["bits_per_value"] for _, record in members) / len(members)
        seeds = tuple(sorted(run.seed for run, _ in members))
        point = Point(target, bits, sum(top1) / len(top1), min(top1), max(top1), seeds)
        modes.setdefault(mode, []).append(point)
    return {mode: sorted(points, key=lambda point: point.bits) for mode, points in modes.items()}


def upper_front(points):
    """The points that none with as few bits equals or beats, by rising bits and so by rising accuracy."""
    front = []
    for point in sorted(points, key=lambda point: (point.bits, -point.top1)):
        if not front or point.top1 > front[-1].top1:
            front.append(point)
    return front


def bits_at(points, top1):
    """The least bits at which the front, linear in log bits between its points, reaches `top1`; None if it doesn't."""
    front = upper_front(points)
    if not front or top1 > front[-1].top1:
        return None
    if top1 <= front[0].top1:
        return Bits(front[0].bits, bound=top1 < front[0].top1)
    for low, high in zip(front, front[1:]):
        if top1 <= high.top1:
            part = (top1 - low.top1) / (high.top1 - low.top1)
            return Bits(math.exp(math.log(low.bits) + part * (math.log(high.bits) - math.log(low.bits))))
    return None


def ratio(bits, baseline):
    """`bits` against the bits of a baseline as `(sign, ratio)`: sign `=`, `≤` or `≥`; None where nothing follows."""
    if bits is None or baseline is None or (bits.bound and baseline.bound):
        return None
    return ("≤" if bits.bound else "≥" if baseline.bound else "="), bits.value / baseline.value
