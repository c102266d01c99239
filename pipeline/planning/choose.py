"""The plan of a build: what was asked for, or what the planner finds cheapest; kept so that a resumed build goes on."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from calib.scheme import QuantizationScheme
from engines.buckets import Bucket, within_budget
from engines.errors import InputError
from engines.writing import write_whole
from pipeline.cli import fused_table
from pipeline.config import BuildConfig
from pipeline.gates.reference import Reference
from pipeline.graph.export import Export
from pipeline.model.transformer import PrunedTransformer
from pipeline.planning.costs import DEVICES, AnalyticCost, CostModel, Faster
from pipeline.planning.fused import given_fused, why_staged, with_fused
from pipeline.planning.plan import Planner, StagedPlan, describe, finest_for, padding
from pipeline.planning.profile import cost_table
from pipeline.planning.simple import choose_cuts
from pipeline.planning.typical import TypicalTexts
from pipeline.publish import Publisher
from pipeline.subject import Subject
from pipeline.target import BuildTarget

FILE = "plan.json"


def choose_plan(
    config: BuildConfig,
    subject: Subject,
    target: BuildTarget | None,
    buckets: Sequence[Bucket],
    reference: Reference,
    publisher: Publisher,
    progress: Progress,
    scheme: QuantizationScheme | None,
    export: Export,
) -> StagedPlan:
    """The plan of a build.

    The planner chooses where neither stages nor buckets were given, the head reads one token, and costs are known:
    measured on `target` (None: its engines do not run here), or estimated for --device. Raises InputError where
    fused engines are asked for and nothing is cut.

    scheme: what INT8 engines quantise, where every bucket takes the faster of them and those in fp32.
    export: writes the graphs that costs are measured on.
    """
    path, model, console = publisher.path / FILE, subject.model, progress.console
    if publisher.done(FILE):
        return StagedPlan.model_validate_json(path.read_bytes())
    planner: Planner | None = None
    asked = config.stages != "auto" or config.buckets is not None
    if asked or model.config.head.token_level or (target is None and config.device is None):
        if unused := sorted(config.model_fields_set & {"device", "explain", "max_engines"}):
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in unused)
            console.print(f"note: nothing is planned here, so {flags} change nothing", highlight=False)
        cuts = choose_cuts(model, config.stages, reference.mean_rows())
        plan = StagedPlan(cuts=tuple(cuts), buckets=(tuple(buckets),) * (len(cuts) + 1))
        if config.plan == "fused":
            if not cuts:
                raise InputError("plan 'fused': the model is not cut, so one stage is all of it; cut it with --stages")
            plan = plan.model_copy(update={"fused": given_fused(TypicalTexts.of(config, subject).rows, cuts, buckets)})
    else:
        typical, batches = TypicalTexts.of(config, subject), sorted({bucket.batch for bucket in buckets})
        costs = _costs(config, model, target, batches, scheme, progress, export)
        sizes = len(batches) + (config.token_budget is not None)
        # What a data sheet knows nothing of is left out of the times that it gives.
        tokenising = {} if config.device is not None else typical.tokenising(subject, batches)
        engines = config.max_engines * len(batches) // sizes
        if engines < len(batches):
            raise InputError(
                f"--max-engines {config.max_engines}: expected at least {sizes}, one for every batch size of a stage"
            )
        finest = finest_for(config.target)
        planner = Planner(model, typical.rows, costs, batches, engines, tokenising=tokenising, finest=finest)
        plan = planner.best()
        if config.plan != "staged" and why_staged(config, model.config) is None:
            plan = with_fused(planner, plan, config.plan)
        if config.explain:
            explain(planner, plan, console)
    if config.token_budget is not None:
        larger = tuple(tuple(within_budget(held, config.token_budget)) for held in plan.buckets)
        plan = plan.model_copy(update={"buckets": larger})
    if planner is not None:
        plan = planner.timed(plan)
    write_whole(path, (plan.model_dump_json(indent=1) + "\n").encode())
    publisher.mark(FILE)
    return plan


def explain(planner: Planner, plan: StagedPlan, console: Console) -> None:
    """Prints the plan beside the plans that it was preferred to."""
    table = Table(title="plan", title_justify="left")
    for name in ("stage", "steps", "mean rows", "lengths"):
        table.add_column(name)
    for row in describe(plan, planner.model, planner.rows):
        table.add_row(*row)
    console.print(table)
    others = {"this plan": plan, "no cut": planner.given([]), "every cut": planner.given(planner.points)}
    compared = Table(title="expected milliseconds per text", title_justify="left")
    for name in ("", *(f"batch {batch}" for batch in planner.batches), "padding", "engines"):
        compared.add_column(name, justify="left" if not name else "right")
    for name, other in others.items():
        milliseconds = [f"{1e3 * other.expected[batch]:.2f}" for batch in planner.batches]
        wasted = f"{100 * padding(other, planner.rows):.1f} %"
        compared.add_row(name, *milliseconds, wasted, str(sum(len(held) for held in other.buckets)))
    if (fused := plan.fused) is not None:
        milliseconds = [f"{fused.expected[batch]:.2f}" if batch in fused.expected else "" for batch in planner.batches]
        compared.add_row("fused", *milliseconds, "", str(len(fused.buckets)))
    console.print(compared)
    if fused is not None:
        console.print(fused_table(fused))


def _costs(
    config: BuildConfig,
    model: PrunedTransformer,
    target: BuildTarget | None,
    batches: Sequence[int],
    scheme: QuantizationScheme | None,
    progress: Progress,
    export: Export,
) -> CostModel:
    if config.device is not None:
        return AnalyticCost(DEVICES[config.device], model.config.encoder)
    assert target is not None
    schemes = [None, scheme] if scheme is not None and scheme.ranges else [None]
    task = progress.add_task("costs of this machine", total=len(schemes))
    tables = []
    for each in schemes:
        tables.append(cost_table(model, target, batches, config.threads, scheme=each, export=export))
        progress.advance(task)
    return Faster(tables) if len(tables) > 1 else tables[0]
