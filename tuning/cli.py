"""The command line: ``prefilltune tune | status | compare | build | report | presets | ...``."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from ..database import (
    Finder,
    NoRecordError,
    RecordStore,
    StaleRecordError,
    TargetKey,
    Tier,
    committed_root,
    target_keys,
)
from ..workloads import (
    MASK_MODES,
    PrefillShape,
    PrefillSpec,
    PrefilltuneError,
    load_presets,
    parse_lengths,
    preset,
)
from .db_cli import app as db_app
from .devices.address import Address, check_key
from .duration import format_duration, parse_duration
from .environment import check_compiler, check_packages
from .errors import (
    InvalidOptionError,
    KernelCheckError,
    NothingFoundError,
    UnsupportedTargetError,
    WorkerFailedError,
)
from .heads import parse_heads
from .serve_cli import DevicesOption, parse_devices, tracker, worker
from .tvm_import import import_tvm_without_torch

if TYPE_CHECKING:
    from .comparison import Comparison
    from .devices.pool import Pool
    from .dispatch import Plan
    from .target import ResolvedTarget
    from .tune import TuneResult

COMPARISON_FILE = "comparison.json"
CHART_FILE = "comparison.png"
REPORT_FILE = "report.md"
_DEFAULT_BUDGET = "140s"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Tune masked batch prefill attention with TVM, keep the records, build and compare.",
)
app.add_typer(db_app, name="db")
app.command()(tracker)
app.command()(worker)
_console = Console(markup=False, highlight=False)

TargetOption = Annotated[
    str,
    typer.Option(
        "--target",
        help="llvm (this CPU), cuda (the first GPU), a TVM target tag, or a target in JSON.",
    ),
]
ArchOption = Annotated[
    str | None,
    typer.Option("--arch", help="With --target cuda, such as sm_90a; the GPU's when absent."),
]
ModelOption = Annotated[
    str, typer.Option("--model", help="A preset; `prefilltune presets` lists them.")
]
HeadsOption = Annotated[
    str,
    typer.Option(
        "--heads",
        metavar="QO[/KV]xDIM",
        help="Heads instead of a preset, such as 8x64 or 32/8x128.",
    ),
]
MaskOption = Annotated[str, typer.Option("--mask-mode", help=f"With --heads: {MASK_MODES}.")]
DtypeOption = Annotated[
    str,
    typer.Option(
        "--dtype",
        help="float32, float16 or bfloat16; float32 on llvm and float16 on cuda when absent.",
    ),
]
ShapeOption = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="BATCHxLEN", help="Repeat for more; or BATCHxQO_LENxKV_LEN."),
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", help="CPU threads of a kernel; all cores when absent.")
]
DatabaseOption = Annotated[
    Path | None,
    typer.Option("--database", help="Folder of records; a work database when absent."),
]


@app.command()
def tune(
    target: TargetOption = "llvm",
    model: ModelOption = "",
    heads: HeadsOption = "",
    mask_mode: MaskOption = "padded",
    dtype: DtypeOption = "",
    arch: ArchOption = None,
    shape: ShapeOption = None,
    lens: Annotated[
        str,
        typer.Option(
            "--lens", help="Lengths to time on: full, uniform, fixed:..., histogram:FILE."
        ),
    ] = "full",
    trials: Annotated[
        int | None, typer.Option("--trials", help="Candidates to measure for each shape.")
    ] = None,
    budget: Annotated[
        str, typer.Option("--budget", help="Time for each shape, such as 90s or 5m.")
    ] = "",
    seed: Annotated[int, typer.Option("--seed", help="Of the search and its inputs.")] = 0,
    space: Annotated[
        list[str] | None,
        typer.Option(
            "--space",
            help="A design space; repeat for more. When absent, on a CPU all, on a GPU the fastest "
            "that can schedule the workload.",
        ),
    ] = None,
    keep: Annotated[int, typer.Option("--keep", help="Records kept of each space.")] = 2,
    threads: ThreadsOption = None,
    database: DatabaseOption = None,
    compare: Annotated[
        bool, typer.Option("--compare/--no-compare", help="End with the comparison.")
    ] = True,
    tracker: Annotated[
        str,
        typer.Option(
            "--tracker", metavar="HOST:PORT", help="Measure on the devices of a tracker's workers."
        ),
    ] = "",
    key: Annotated[str, typer.Option("--key", help="With --tracker: which devices.")] = "",
    devices: DevicesOption = "",
    plan: Annotated[
        Path | None,
        typer.Option("--plan", help="A TOML file that says what to tune, instead of the options."),
    ] = None,
) -> None:
    """Search for fast kernels and keep the best, verified, in the database."""
    if plan is not None:
        said = (model, heads, dtype, arch, shape, trials, budget, seed, space, threads, tracker)
        changed = (target, mask_mode, lens, keep) != ("llvm", "padded", "full", 2)
        if any(said) or key or devices or changed:
            raise InvalidOptionError(
                "--plan says what to tune, where and how long; leave out every other option but "
                "--database"
            )
        _tune_plan(plan, database or work_root())
        return
    spec, shapes = _workload(model, heads, mask_mode, dtype, shape)
    lengths = parse_lengths(lens)
    trials, seconds = _limit(trials, budget)
    if keep < 1:
        raise InvalidOptionError(f"--keep is {keep}; it must be 1 or more")
    if not 0 <= seed < 2**30:
        raise InvalidOptionError(f"--seed is {seed}; it must lie in 0 to {2**30 - 1}")
    with ExitStack() as stack:
        places = _devices(target, threads, arch, tracker, key, devices)
        resolved, pool = stack.enter_context(places)
        spec = spec if dtype else _in_usual_dtype(spec, resolved.kind)
        from .arm import Case
        from .devices.opening import local_pool
        from .progress import SearchDisplay
        from .search import Limit, local_builders
        from .tune import tune_case

        spaces = _spaces(space, spec, shapes, resolved)
        root = database or work_root()
        _warn_of_bad_lines(resolved, root)
        builders = None
        if len(shapes) > 1:  # whose processes need not start for each
            pool = pool or stack.enter_context(local_pool(resolved))
            builders = stack.enter_context(local_builders())
        for each in shapes:
            case = Case(spec, each, resolved, lengths, seed)
            with SearchDisplay(_console, str(case)) as display:
                result = tune_case(
                    case, spaces, Limit(trials, seconds), root, keep, display.update, pool, builders
                )
            _print_kept(result, root)
            if result.interrupted:
                _console.print(
                    "interrupted; run the same command again and the search goes on from "
                    f"{result.log}",
                    soft_wrap=True,
                )
                raise typer.Exit(130)
    if tracker:
        return  # the comparison is measured where it runs
    if compare and resolved.kind == "cuda" and not find_spec("torch"):
        from .report import TORCH_HINT

        _console.print(TORCH_HINT, soft_wrap=True)
    elif compare:
        workloads = [(spec, each) for each in shapes]
        _compare_all(workloads, resolved, [lens], root, Tier.EXACT, None)


@app.command()
def status(
    plan: Annotated[
        str, typer.Argument(help="A plan's file or its name; every plan when absent.")
    ] = "",
    database: DatabaseOption = None,
) -> None:
    """Show how far tuning plans are; needs no device and no TVM."""
    from .plans.status import plan_tables

    for table in plan_tables(database or work_root(), Path(plan).stem):
        _console.print(table)


@app.command()
def compare(
    target: TargetOption = "llvm",
    model: ModelOption = "",
    heads: HeadsOption = "",
    mask_mode: MaskOption = "padded",
    dtype: DtypeOption = "",
    arch: ArchOption = None,
    shape: ShapeOption = None,
    lens: Annotated[
        list[str] | None,
        typer.Option("--lens", help="Repeat for more; full and uniform if absent."),
    ] = None,
    accept: Annotated[
        str, typer.Option("--accept", help="Furthest record to take: exact, family, other-target.")
    ] = "exact",
    threads: ThreadsOption = None,
    database: DatabaseOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="Folder for comparison.json and the chart.")
    ] = None,
) -> None:
    """Measure tuned kernels side by side with TVM's own, the stock rules' and PyTorch's.

    Without --model and --heads: every workload that has a record for the target, or those of them
    that --dtype and --shape leave.
    """
    wanted = None
    if model or heads:
        wanted = _workload(model, heads, mask_mode, dtype, shape, any_tuned=True)
    sizes = [PrefillShape.parse(text) for text in shape or ()]
    tier = _tier(accept)
    chosen = lens or ["full", "uniform"]
    for text in chosen:
        parse_lengths(text)
    resolved = _prepare(target, threads, arch, runs=True)
    root = database or work_root()
    _warn_of_bad_lines(resolved, root)
    if wanted is None:
        workloads = _tuned_workloads(resolved, root, dtype, sizes)
    else:
        spec, shapes = wanted
        spec = spec if dtype else _in_usual_dtype(spec, resolved.kind)
        tuned = [] if shape else _tuned_shapes(spec, resolved, root)
        workloads = [(spec, each) for each in tuned or shapes]
        if not workloads:
            raise _nothing_tuned(spec, resolved, root, _SEE_NEAR)
    _compare_all(workloads, resolved, chosen, root, tier, output)


@app.command()
def build(
    target: TargetOption = "llvm",
    model: ModelOption = "",
    heads: HeadsOption = "",
    mask_mode: MaskOption = "padded",
    dtype: DtypeOption = "",
    arch: ArchOption = None,
    shape: ShapeOption = None,
    accept: Annotated[
        str,
        typer.Option(
            "--accept",
            help="Furthest record to take: exact, family, other-target; for a GPU that is named "
            "by --arch alone, family at least.",
        ),
    ] = "exact",
    threads: ThreadsOption = None,
    database: DatabaseOption = None,
    output: Annotated[Path, typer.Option("--output", help="Folder for the library.")] = Path(
        "dist"
    ),
) -> None:
    """Build the tuned kernels of a model into one shared library; never tunes."""
    spec, shapes = _workload(model, heads, mask_mode, dtype, shape, any_tuned=True)
    tier = _tier(accept)
    resolved = _prepare(target, threads, arch)
    spec = spec if dtype else _in_usual_dtype(spec, resolved.kind)
    if not resolved.is_here:
        tier = max(tier, Tier.FAMILY)
    from .apply import database_roots
    from .library import build_kernels

    root = database or work_root()
    _warn_of_bad_lines(resolved, root)
    if not shape:
        shapes = _tuned_shapes(spec, resolved, root) or shapes
    if not shapes:
        raise _nothing_tuned(spec, resolved, root, _SEE_NEAR)
    roots = database_roots(root, committed_root())
    finder = Finder(roots)
    matches = [finder.find(resolved.key, spec, each, accept=tier) for each in shapes]
    for each, match in zip(shapes, matches, strict=True):
        if match.distance:
            raise NoRecordError(
                f"the nearest record of {spec} is for {match.entry.provenance.shape}, not {each}; "
                f"run: prefilltune tune --shape {each}"
            )
    plans, notes = _plans(spec, resolved, roots, tier)
    built = build_kernels(matches, plans, resolved, output)
    symbols = Column("symbol", overflow="fold")  # which are alike but for their ends
    table = Table(symbols, "record", "tier", title=f"{built.library}", title_justify="left")
    for symbol, match in zip(built.symbols, matches, strict=False):
        table.add_row(symbol, match.entry.record_id, str(match.tier))
    for symbol, plan in zip(built.symbols[len(matches) :], plans, strict=True):
        tiers = {str(match.tier) for match in plan.matches.values()}
        table.add_row(symbol, f"any of {len(plan.matches)}", ", ".join(sorted(tiers)))
    _console.print(table)
    for note in notes:
        _console.print(note, soft_wrap=True)
    _console.print(
        f"wrote {built.library}, {built.manifest.name} and {built.header.name}", soft_wrap=True
    )


@app.command()
def sweep(
    target: TargetOption = "llvm",
    model: ModelOption = "",
    heads: HeadsOption = "",
    mask_mode: MaskOption = "padded",
    dtype: DtypeOption = "",
    shape: ShapeOption = None,
    lens: Annotated[
        list[str] | None,
        typer.Option("--lens", help="Repeat for more; full and uniform if absent."),
    ] = None,
    threads: ThreadsOption = None,
    database: DatabaseOption = None,
) -> None:
    """Time the tuned kernels of a model against one another on many shapes.

    So a kernel for every shape knows which of them serves which: `build` and the drop-in for TVM's
    kernel ask for it where a model has several. Shapes that are absent are chosen around those that
    were tuned. Without --model and --heads, all workloads with records that have not been swept.
    """
    wanted = None
    if model or heads:
        wanted, _ = _workload(model, heads, mask_mode, dtype, shape, any_tuned=True)
    shapes = [PrefillShape.parse(text) for text in shape or ()]
    chosen = lens or ["full", "uniform"]
    for text in chosen:
        parse_lengths(text)
    resolved = _prepare(target, threads, runs=True)
    root = database or work_root()
    _warn_of_bad_lines(resolved, root)
    if wanted is None:
        specs = _unswept(resolved, root, dtype)
    else:
        specs = [wanted if dtype else _in_usual_dtype(wanted, resolved.kind)]
    for spec in specs:
        _sweep(spec, resolved, root, shapes, chosen)
    if not specs:
        _console.print("nothing to do: every record is swept, or the only one of its workload")


@app.command()
def explain(
    target: TargetOption = "llvm",
    model: ModelOption = "",
    heads: HeadsOption = "",
    mask_mode: MaskOption = "padded",
    dtype: DtypeOption = "",
    arch: ArchOption = None,
    on_missing: Annotated[
        str,
        typer.Option(
            "--on-missing",
            help="Where the target has no record: error, nearest (another device of the same "
            "architecture) or baseline (TVM's hand-written kernel).",
        ),
    ] = "error",
    threads: ThreadsOption = None,
    database: DatabaseOption = None,
    library: Annotated[
        Path | None, typer.Option("--library", help="What a built library says of itself instead.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As data.")] = False,
) -> None:
    """Say which tuned kernel serves which shapes of a model, and where it comes from."""
    from .explanation import explanation_tables
    from .metadata import read_metadata

    if library is not None:
        found = read_metadata(library)["kernels"]
    else:
        from .apply import database_roots
        from .dispatch import make_plan

        spec, _ = _workload(model, heads, mask_mode, dtype, None, any_tuned=True)
        resolved = _prepare(target, threads, arch, compiler=False)
        spec = spec if dtype else _in_usual_dtype(spec, resolved.kind)
        roots = database_roots(database or work_root(), committed_root())
        found = [make_plan(spec, resolved, roots, on_missing=on_missing).as_data()]
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for table in explanation_tables(found):
        _console.print(table)
    for note in (note for each in found for note in each.get("notes", ())):
        _console.print(note, soft_wrap=True)


@app.command()
def report(
    target: TargetOption = "llvm",
    threads: ThreadsOption = None,
    database: DatabaseOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="Folder for the page; beside the records if absent."),
    ] = None,
) -> None:
    """Write the page and the chart of what `compare` has measured.

    --target may also be the name of a folder of records, such as cuda-sm_90a-h100: a page needs
    no GPU.
    """
    from .chart import draw_chart
    from .comparison import read_comparisons
    from .report import markdown

    root = database or work_root()
    folder = root / target
    if not (folder / COMPARISON_FILE).is_file():
        folder = root / str(_prepare(target, threads, compiler=False).key)
    comparisons = read_comparisons(folder / COMPARISON_FILE)
    if not comparisons:
        raise NothingFoundError(
            f"{folder / COMPARISON_FILE} has no comparison yet; run: prefilltune compare --target "
            f"{target} --database {root}"
        )
    destination = output or folder
    destination.mkdir(parents=True, exist_ok=True)
    draw_chart(comparisons, destination / CHART_FILE)
    (destination / REPORT_FILE).write_text(markdown(comparisons, CHART_FILE), encoding="utf-8")
    _console.print(f"wrote {destination / REPORT_FILE} and {CHART_FILE}", soft_wrap=True)


@app.command()
def presets() -> None:
    """List the models whose heads and usual shapes are known."""
    rest = ("heads", "head_dim", "mask", "usual shapes", "model")
    columns = (Column(title, overflow="fold") for title in rest)
    table = Table(Column("preset", no_wrap=True), *columns)  # a name is there to be copied
    for name, each in load_presets().items():
        spec = each.spec()
        heads = f"{spec.num_qo_heads}/{spec.num_kv_heads}"
        shapes = " ".join(f"{size.batch}x{size.qo_len}" for size in each.shapes)
        table.add_row(name, heads, str(spec.head_dim), spec.mask_mode, shapes, each.model)
    _console.print(table)


def work_root() -> Path:
    """Where records go when nothing is said: beside the committed ones in a checkout.

    An installed package must not write into itself; there it is a folder of the working directory.
    """
    package = committed_root().parent
    if (package.parent / "pyproject.toml").is_file():
        return package / "work"
    return Path("prefilltune-work")


def main() -> None:
    """Run the command line; an error of the user's is one line and exit code 2."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except PrefilltuneError as error:
        _print_error(error)
        sys.exit(2)
    except KeyboardInterrupt:
        print("prefilltune: interrupted", file=sys.stderr)
        sys.exit(130)


def _print_error(error: PrefilltuneError) -> None:
    print(f"prefilltune: {' '.join(str(error).split())}", file=sys.stderr)


def _workload(
    model: str,
    heads: str,
    mask_mode: str,
    dtype: str,
    shape: Sequence[str] | None,
    *,
    any_tuned: bool = False,
) -> tuple[PrefillSpec, list[PrefillShape]]:
    """The spec and the shapes that the options name; a preset's usual shapes if none is given.

    With ``any_tuned``, heads alone will do: the shapes that have a record are meant.
    """
    if bool(model) == bool(heads):
        raise InvalidOptionError(
            "give either --model (a preset: `prefilltune presets` lists them) or --heads, such as "
            "--heads 12x64"
        )
    shapes = [PrefillShape.parse(text) for text in shape or ()]
    if model:
        chosen = preset(model)
        return chosen.spec(dtype or "float32"), shapes or list(chosen.shapes)
    if not shapes and not any_tuned:
        raise InvalidOptionError("--heads needs a shape too, such as --shape 4x128")
    return parse_heads(heads, mask_mode, dtype or "float32"), shapes


def _limit(trials: int | None, budget: str) -> tuple[int | None, float | None]:
    if trials is not None and trials < 1:
        raise InvalidOptionError(f"--trials is {trials}; it must be 1 or more")
    if trials is None and not budget:
        budget = _DEFAULT_BUDGET
    return trials, parse_duration(budget) if budget else None


def _in_usual_dtype(spec: PrefillSpec, kind: str) -> PrefillSpec:
    """float16 on a GPU, whose tensor cores have no float32; float32 on a CPU."""
    return dataclasses.replace(spec, dtype="float16" if kind == "cuda" else "float32")


def _prepare(
    target: str,
    threads: int | None,
    arch: str | None = None,
    *,
    compiler: bool = True,
    runs: bool = False,
) -> ResolvedTarget:
    """Check the machine, import TVM the fast way and resolve the target.

    Parameters
    ----------
    compiler : bool
        Whether kernels are to be built.
    runs : bool
        Whether kernels are to be run, on this machine.
    """
    check_packages()
    if compiler:
        check_compiler()
    import_tvm_without_torch()
    from .nvrtc import check_nvrtc
    from .target import resolve_target

    resolved = resolve_target(target, threads, arch)
    if runs and not resolved.is_here:
        raise UnsupportedTargetError(
            f"this machine has no GPU that runs code for {resolved.key}; leave --arch out on a "
            "machine with a GPU, or cross-compile here: prefilltune build --target cuda --arch "
            f"{resolved.key.arch}"
        )
    if compiler and resolved.kind == "cuda":
        check_nvrtc()
    return resolved


def _spaces(
    chosen: Sequence[str] | None,
    spec: PrefillSpec,
    shapes: Sequence[PrefillShape],
    target: ResolvedTarget,
) -> list[str]:
    from .spaces import SPACES, default_spaces, usable_spaces

    usable = usable_spaces(target.kind)
    for name in chosen or ():
        if name not in usable:
            raise InvalidOptionError(
                f"--space {name!r} is no design space for {target.kind}; choose {', '.join(usable)}"
            )
    spaces = list(dict.fromkeys(chosen)) if chosen else default_spaces(spec, shapes, target)
    for shape in shapes:
        idle = [name for name in spaces if not SPACES[name].variants(spec, shape, target)]
        if idle or not spaces:
            raise InvalidOptionError(
                f"{' and '.join(idle) or 'every design space'} cannot schedule {spec} at {shape} "
                f"for {target.key}; leave --space out, or choose another of {', '.join(usable)}"
            )
    return spaces


def _tier(text: str) -> Tier:
    tiers = {"exact": Tier.EXACT, "family": Tier.FAMILY, "other-target": Tier.OTHER_TARGET}
    if text not in tiers:
        raise InvalidOptionError(f"--accept is {text!r}; choose {', '.join(tiers)}")
    return tiers[text]


def _tune_plan(path: Path, root: Path) -> None:
    """Run a plan; its searches take their shares of the targets' devices."""
    from .plans.plan import read_plan

    plan = read_plan(path)
    from .arm import Case
    from .devices.machine import Wanted
    from .plans.job import PlannedCase, run_plan
    from .plans.sharing import target_devices
    from .progress import PlanDisplay

    cases: list[PlannedCase] = []
    for each in plan.targets:
        wanted = Wanted(each.target, each.threads, each.arch)
        places = (each.tracker, each.key, each.devices)
        with _devices(each.target, each.threads, each.arch, *places) as (resolved, pool):
            devices = target_devices(each, len(pool.slots) if pool is not None else 1)
        _warn_of_bad_lines(resolved, root)
        for spec, shape in plan.workloads:
            spec = spec if plan.has_dtypes else _in_usual_dtype(spec, resolved.kind)
            case = Case(spec, shape, resolved, parse_lengths(plan.lens), plan.seed)
            spaces = tuple(_spaces(None, spec, [shape], resolved))
            cases.append(PlannedCase(case, spaces, wanted, devices))
    with PlanDisplay(_console) as display:
        ended = run_plan(
            plan, cases, root, display.search, lambda line: _console.print(line, soft_wrap=True)
        )
    if not ended:
        _console.print("interrupted; run the same command again to go on from there")
        raise typer.Exit(130)


@contextmanager
def _devices(
    target: str, threads: int | None, arch: str | None, tracker: str, key: str, devices: str
) -> Iterator[tuple[ResolvedTarget, Pool | None]]:
    """The target, and the devices to measure on if they are more than this machine's first."""
    if bool(tracker) != bool(key) or (tracker and devices):
        raise InvalidOptionError(
            "--tracker HOST:PORT and --key NAME go together, and without --devices, which are GPUs "
            "of this machine"
        )
    if not tracker and not devices:
        yield _prepare(target, threads, arch, runs=True), None
        return
    from .devices.machine import Wanted
    from .devices.opening import pool_of_gpus, pool_of_tracker
    from .nvrtc import check_nvrtc

    address = Address.parse(tracker) if tracker else None
    gpus = parse_devices(devices)
    check_packages()
    check_compiler()
    import_tvm_without_torch()
    wanted = Wanted(target, threads, arch)
    if address is not None:
        pool = pool_of_tracker(address, check_key(key), wanted)
    else:
        pool = pool_of_gpus(gpus, wanted)
    with pool:
        assert pool.machine is not None
        resolved = pool.machine.target
        if resolved.kind != "cuda" and devices:
            raise InvalidOptionError(
                f"--devices are GPUs, and the target is {target}; add --target cuda"
            )
        if not resolved.is_here:
            raise UnsupportedTargetError(
                f"the devices are no {resolved.key}: leave --arch out, and theirs is taken"
            )
        if resolved.kind == "cuda":
            check_nvrtc()
        yield resolved, pool


def _plans(
    spec: PrefillSpec, target: ResolvedTarget, roots: Sequence[Path], tier: Tier
) -> tuple[list[Plan], list[str]]:
    """The plan for a kernel that serves every shape, where there can be one, and what to say."""
    from .dispatch import make_plan
    from .errors import NotSweptError

    on_missing = "nearest" if tier >= Tier.FAMILY else "error"
    try:
        plan = make_plan(spec, target, roots, on_missing=on_missing)
    except (NotSweptError, NoRecordError) as error:
        return [], [f"no kernel for every shape is in it: {error}"]
    return [plan], list(plan.notes)


def _unswept(target: ResolvedTarget, root: Path, dtype: str) -> list[PrefillSpec]:
    """The specs that several records could serve, not all of which a sweep knows."""
    from .apply import database_roots
    from .dispatch import candidates, read_sweeps

    roots = database_roots(root, committed_root())
    finder, sweeps = Finder(roots), [read_sweeps(each / str(target.key)) for each in roots]

    def is_swept(spec: PrefillSpec) -> bool:
        found = candidates(finder, target.key, spec).keys()
        known = [each[str(spec)].records for each in sweeps if str(spec) in each]
        return len(found) < 2 or any(found <= set(records) for records in known)

    tuned = dict.fromkeys(spec for spec, _ in _tuned_workloads(target, root, dtype, []))
    return [spec for spec in tuned if not is_swept(spec)]


def _sweep(
    spec: PrefillSpec,
    target: ResolvedTarget,
    root: Path,
    shapes: Sequence[PrefillShape],
    lens: Sequence[str],
) -> None:
    from .apply import database_roots
    from .dispatch import candidates, make_plan, measure_sweep, sample, write_sweep
    from .explanation import explanation_tables

    roots = database_roots(root, committed_root())
    found = candidates(Finder(roots), target.key, spec)
    if not found:
        raise _nothing_tuned(spec, target, root)
    tuned = [PrefillShape.parse(match.entry.provenance.shape) for match in found.values()]
    with _console.status("building") as status:
        measured = measure_sweep(
            spec,
            found,
            shapes or sample(tuned),
            lens,
            target,
            listener=lambda case: status.update(f"measuring {len(found)} kernels on {case.shape}"),
        )
    path = write_sweep(root / str(target.key), measured)
    for table in explanation_tables([make_plan(spec, target, roots).as_data()]):
        _console.print(table)
    _console.print(f"wrote {path}", soft_wrap=True)


def _print_kept(result: TuneResult, root: Path) -> None:
    state = result.state
    failed = ", ".join(f"{count} {kind}" for kind, count in sorted(state.failures.items()))
    pace = state.trials / max(state.elapsed, 1e-9) * 60
    _console.print(
        f"{state.trials} trials in {format_duration(state.elapsed)} "
        f"({pace:.0f} a minute; failed: {failed or 'none'}); "
        f"{len(result.kept)} verified records kept in {root}",
        soft_wrap=True,
    )
    if state.faults:
        faults = ", ".join(f"{count} {kind}" for kind, count in sorted(state.faults.items()))
        _console.print(f"faults of devices and builders, survived: {faults}", soft_wrap=True)
    for note in state.notes:
        _console.print(note, soft_wrap=True)
    for entry in result.kept:
        provenance = entry.provenance
        parameters = ", ".join(f"{name}={value}" for name, value in provenance.variant.items())
        _console.print(
            f"  {entry.record_id}  {provenance.median_secs * 1e3:.3f} ms  error "
            f"{provenance.max_abs_error:.1e}  {provenance.space}  {parameters}",
            soft_wrap=True,
        )


def _warn_of_bad_lines(target: ResolvedTarget, root: Path) -> None:
    """Say which lines of the databases were skipped: a record is never dropped silently."""
    for store in _stores(target, root):
        for problem in store.problems:
            where = store.folder / problem.file
            print(
                f"prefilltune: {where}:{problem.line}: skipped: {problem.reason}", file=sys.stderr
            )


def _stores(target: ResolvedTarget, root: Path) -> list[RecordStore]:
    """The records that serve a target: its own, or its family's for a GPU that is elsewhere."""
    from .apply import database_roots

    return [
        RecordStore.open(each, key, create=True)
        for each in database_roots(root, committed_root())
        for key in ([target.key] if target.is_here else _family(target.key, each))
    ]


def _family(key: TargetKey, root: Path) -> list[TargetKey]:
    keys = target_keys(root) if root.is_dir() else []
    return [each for each in keys if each.family == key.family]


def _tuned_shapes(spec: PrefillSpec, target: ResolvedTarget, root: Path) -> list[PrefillShape]:
    """Every shape of ``spec`` that has a record for exactly this target."""
    return [shape for each, shape in _recorded(target, root) if each == spec]


def _tuned_workloads(
    target: ResolvedTarget, root: Path, dtype: str, shapes: Sequence[PrefillShape]
) -> list[tuple[PrefillSpec, PrefillShape]]:
    """Every workload that has a record, of the given dtype and shapes if any are given."""
    found = [
        (spec, shape)
        for spec, shape in _recorded(target, root)
        if dtype in ("", spec.dtype) and (not shapes or shape in shapes)
    ]
    if not found:
        raise NoRecordError(
            f"no database has a record for {target.key} that the options leave; tune first "
            "(prefilltune tune --model NAME), or name a workload with --model or --heads"
        )
    return found


_SEE_NEAR = ", or name a --shape to see what is near"


def _nothing_tuned(
    spec: PrefillSpec, target: ResolvedTarget, root: Path, or_else: str = ""
) -> NoRecordError:
    return NoRecordError(
        f"no record for {spec} on {target.key} in {root} or among the committed ones; tune it "
        f"first{or_else}"
    )


def _recorded(target: ResolvedTarget, root: Path) -> list[tuple[PrefillSpec, PrefillShape]]:
    """Every workload with a record that serves a target, in a lasting order."""
    texts = {
        (entry.provenance.spec, entry.provenance.shape)
        for store in _stores(target, root)
        for entry in store.entries
    }
    found = [(PrefillSpec.parse(spec), PrefillShape.parse(shape)) for spec, shape in texts]
    return sorted(found, key=lambda each: (str(each[0]), each[1].batch, each[1].qo_len,
                                           each[1].num_kv))  # fmt: skip


def _compare_all(
    workloads: Sequence[tuple[PrefillSpec, PrefillShape]],
    target: ResolvedTarget,
    lens: Sequence[str],
    root: Path,
    accept: Tier,
    output: Path | None,
) -> None:
    from .apply import database_roots
    from .arm import Case
    from .compare import Comparer
    from .comparison import write_comparisons
    from .report import summary_table, table

    folder = output or root / str(target.key)
    comparisons: list[Comparison] = []
    failures = 0
    with Comparer(target, database_roots(root, committed_root()), accept) as comparer:
        for case in (
            Case(spec, shape, target, parse_lengths(text))
            for spec, shape in workloads
            for text in lens
        ):
            try:
                with _console.status(f"measuring {case}"):
                    found = comparer.compare(case)
            except (KernelCheckError, StaleRecordError, WorkerFailedError) as error:
                _print_error(error)  # what was measured before is kept, what comes after too
                failures += 1
                continue
            comparisons.append(found)
            _console.print(table(found))
            write_comparisons(folder / COMPARISON_FILE, [found])
    if len(comparisons) > 1:
        _console.print(summary_table(comparisons))
    if comparisons:
        _draw_comparison(comparisons, folder)
    if failures:
        raise typer.Exit(2)


def _draw_comparison(comparisons: Sequence[Comparison], folder: Path) -> None:
    from .chart import draw_chart
    from .comparison import read_comparisons
    from .errors import EnvironmentMismatchError
    from .report import TORCH_HINT

    written = [COMPARISON_FILE]
    try:
        draw_chart(read_comparisons(folder / COMPARISON_FILE), folder / CHART_FILE)
        written.append(CHART_FILE)
    except EnvironmentMismatchError as error:
        _console.print(str(error), soft_wrap=True)
    if not any(each.peers for each in comparisons):
        _console.print(TORCH_HINT, soft_wrap=True)
    _console.print(f"wrote {' and '.join(written)} in {folder}", soft_wrap=True)
