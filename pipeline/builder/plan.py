"""Chooses the plan of a build, as requested or by least cost, and keeps it so that a resumed build uses it again."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from calib.int8.calibrate import Calibration
from engines.buckets import within_budget
from engines.errors import InputError
from engines.memory import engine_bytes
from engines.writing import write_whole
from pipeline.builder.profile import cost_table
from pipeline.builder.typical import TypicalTexts
from pipeline.builder.work import Work
from pipeline.graph.precision import DTYPES
from pipeline.model.reference import Reference
from pipeline.planning.costs import DEVICES, AnalyticCost, CostModel, Faster
from pipeline.planning.memory import best_within
from pipeline.planning.plan import ChosenPlan, Planner, describe, describe_knees, finest_for, padding
from pipeline.planning.simple import choose_cuts

FILE = "plan.json"


def choose_plan(work: Work, reference: Reference, calibration: Calibration | None) -> ChosenPlan:
    """Returns the plan of a build.

    The planner chooses if neither stages nor buckets were given, the head reads one token, and costs are known:
    measured on a target that runs here, or estimated for --device. calibration: of an INT8 build.
    """
    path, start = work.root / FILE, work.start
    if work.publisher.done(FILE):
        return ChosenPlan.model_validate_json(path.read_bytes())
    config, model = work.config, start.subject.model
    planner: Planner | None = None
    asked = config.stages != "auto" or config.buckets is not None
    unknown = start.target.cannot_run is not None and config.sheet is None
    if asked or model.config.head.token_level or unknown:
        plan = _as_asked(work, reference)
    else:
        planner = _planner(work, calibration)
        plan = planner.best() if config.memory is None else _within_memory(work, planner, config.memory << 20)
        if config.explain:
            explain(planner, plan, work.progress.console)
    plan = _with_larger(plan, config.token_budget)
    if planner is not None:
        plan = planner.timed(plan)
    write_whole(path, (plan.model_dump_json(indent=1) + "\n").encode())
    work.publisher.mark(FILE)
    return plan


def _with_larger(plan: ChosenPlan, token_budget: int | None) -> ChosenPlan:
    """Returns the plan with the larger batches that a token budget allows."""
    if token_budget is None:
        return plan
    larger = tuple(tuple(within_budget(buckets, token_budget)) for buckets in plan.buckets)
    return plan.model_copy(update={"buckets": larger})


def _within_memory(work: Work, planner: Planner, limit: int) -> ChosenPlan:
    """Returns the best plan whose engines take at most `limit` bytes. Raises InputError where none does."""
    target, config, encoder = work.start.target, work.config, planner.model.config.encoder
    precision = target.graph_precision
    weights = sum(part.numel() for part in planner.model.parameters()) * DTYPES[precision].itemsize
    if target.chooses_int8_by_time:
        weights += weights // 4  # both engines stay where each is the faster one for some bucket

    def bytes_of(plan: ChosenPlan) -> int:
        stages = _with_larger(plan, config.token_budget).buckets
        sizes = [weights, *[0] * (len(stages) - 1)]
        pairs = zip(sizes, stages, strict=True)
        return sum(engine_bytes(encoder, target.backend.target, precision, size, buckets) for size, buckets in pairs)

    return best_within(planner, limit, bytes_of)


def _as_asked(work: Work, reference: Reference) -> ChosenPlan:
    """Returns the stages and buckets of the command line, or the default ones, without planning."""
    config, start = work.config, work.start
    planned = {"explain", "max_profiles", "memory"} | ({"device"} if config.sheet is not None else set())
    if unused := sorted(config.model_fields_set & planned):
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in unused)
        work.progress.console.print(f"note: nothing is planned here, so {flags} change nothing", highlight=False)
    cuts = choose_cuts(start.subject.model, config.stages, reference.mean_rows())
    return ChosenPlan(cuts=tuple(cuts), buckets=(tuple(start.buckets),) * (len(cuts) + 1))


def _planner(work: Work, calibration: Calibration | None) -> Planner:
    """The planner for texts like those that will come. Raises InputError where too few profiles are allowed."""
    config, subject, batches = work.config, work.start.subject, work.start.batches
    typical, costs = TypicalTexts.of(subject), _costs(work, calibration)
    sizes = len(batches) + (config.token_budget is not None)
    # A data sheet says nothing about tokenising, so its times leave that out.
    tokenising = {} if config.sheet is not None else typical.tokenising_seconds(subject, batches)
    profiles = config.max_profiles * len(batches) // sizes
    if profiles < len(batches):
        raise InputError(
            f"--max-profiles {config.max_profiles}: expected at least {sizes}, one for every batch size of a stage"
        )
    finest = finest_for("cpu" if work.start.target.backend.on_cpu else config.target)
    return Planner(subject.model, typical.rows, costs, batches, profiles, tokenising_seconds=tokenising, finest=finest)


def explain(planner: Planner, plan: ChosenPlan, console: Console) -> None:
    """Prints the plan beside the ones that it was preferred to."""
    table = Table(title="plan", title_justify="left")
    for name in ("stage", "steps", "mean rows", "lengths"):
        table.add_column(name)
    for row in describe(plan, planner.model, planner.rows):
        table.add_row(*row)
    console.print(table)
    others = {"this plan": plan, "no cut": planner.given([]), "every cut": planner.given(planner.points)}
    compared = Table(title="expected milliseconds per text", title_justify="left")
    for name in ("", *(f"batch {batch}" for batch in planner.batches), "padding", "profiles"):
        compared.add_column(name, justify="left" if not name else "right")
    for name, other in others.items():
        milliseconds = [f"{1e3 * other.expected_seconds[batch]:.2f}" for batch in planner.batches]
        wasted = f"{100 * padding(other, planner.rows):.1f} %"
        compared.add_row(name, *milliseconds, wasted, str(sum(len(buckets) for buckets in other.buckets)))
    console.print(compared)
    for line in describe_knees(planner):
        console.print(line, highlight=False)


def _costs(work: Work, calibration: Calibration | None) -> CostModel:
    """Returns the costs of a data sheet or of this machine; where INT8 and wider engines are both built, of the faster
    one.
    """
    start, config = work.start, work.config
    if config.sheet is not None:
        return AnalyticCost(DEVICES[config.sheet], start.subject.model.config.encoder)
    both = calibration is not None and start.target.chooses_int8_by_time and bool(calibration.scheme.ranges)
    schemes = [None, calibration.scheme] if calibration is not None and both else [None]
    task = work.progress.add_task("costs of this machine", total=len(schemes))
    tables = []
    for scheme in schemes:
        subject = start.subject.model, start.target, start.batches
        tables.append(cost_table(*subject, config.threads, scheme=scheme, export=work.export))
        work.progress.advance(task)
    return Faster(tables) if len(tables) > 1 else tables[0]
