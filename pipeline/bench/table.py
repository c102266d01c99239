"""What people read of a record: a table for every batch, and how it was measured."""

from __future__ import annotations

from pipeline.bench.measuring import ARTIFACT
from pipeline.builder.measure import Timing, speedups


def bench_table(record: dict, method: str, batch: int) -> tuple[list[str], list[list[str]]]:
    """The columns and the rows: the artifact, then the dense model in every engine, and how it compares with each."""
    timings = [Timing(**one) for one in record["timings"]]
    columns = ["model", "precision", "ms", "95 %", "texts/s", f"{method} is"]
    rows = []
    for name, precision in record["precisions"].items():
        (latency,) = (one for one in record["latencies"] if (one["name"], one["batch"]) == (name, batch))
        (timing,) = (one for one in timings if (one.name, one.batch) == (name, batch))
        ours = name == ARTIFACT
        figures = f"{latency['median']:.2f}", f"{latency['p95']:.2f}", f"{timing.texts_per_second:.0f}"
        faster = "" if ours else f"{speedups(timings, ARTIFACT, name)[batch]:.2f}x as fast"
        rows.append([method if ours else name, precision, *figures, faster])
    return columns, rows


def setting(record: dict, method: str) -> str:
    """Says what was kept and how all of it was measured."""
    machine, versions = record["machine"], record["versions"]
    names = [name for name in ("openvino", "onnxruntime", "torch") if name in versions]
    libraries = ", ".join(f"{name} {versions[name]}" for name in names)
    threads = "each library's choice of threads" if record["threads"] is None else f"{record['threads']} thread(s)"
    flops = (
        "unknown FLOPs, for a checkpoint is not where it was"
        if record["flops_ratio"] is None
        else f"{record['flops_ratio']:.2f}x fewer FLOPs"
    )
    kept = ", ".join(f"{100 * share:.0f} %" for share in record["kept"])
    return (
        f"{method} keeps {kept} of the tokens behind its stages: {flops}. {record['texts']} texts of at most "
        f"{record['max_length']} tokens, from text to answer, in turns, the median of {record['rounds']} round(s), on "
        f"{machine['cpus']} cores of {machine['processor']}, {threads}, with {libraries}. ms: for a text of a request, "
        "median and 95th percentile over the requests. texts/s and how fast: all texts at once, at most a batch a call."
    )
