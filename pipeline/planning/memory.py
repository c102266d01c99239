"""Keeps a plan within a limit of memory, by fewer profiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from engines.errors import InputError
from engines.memory import PROFILE
from pipeline.planning.plan import ChosenPlan, Planner


def best_within(planner: Planner, limit: int, bytes_of: Callable[[ChosenPlan], int]) -> ChosenPlan:
    """Returns the best plan that takes at most `limit` bytes. Raises InputError where none does.

    bytes_of: what a plan takes.
    """
    fewest = len(planner.batches)
    while True:
        plan = planner.best()
        over = bytes_of(plan) - limit
        if over <= 0:
            return plan
        if planner.profiles <= fewest:
            raise InputError(
                f"--memory {limit >> 20}: expected at least {-(-bytes_of(plan) // 2**20)} MiB, which the engines take "
                "with one length for each batch size; allow more, or build with smaller --buckets"
            )
        used = sum(len(buckets) for buckets in plan.buckets)
        planner = replace(planner, profiles=max(fewest, min(used, planner.profiles) - max(1, over // PROFILE)))
