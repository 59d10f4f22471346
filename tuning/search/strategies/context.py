"""MetaSchedule's context of a variant, from which every strategy gets its schedules."""

from __future__ import annotations

import logging
from typing import Any

from ...spaces import DesignSpace

_LOGGER = logging.getLogger(__name__)

# MetaSchedule's defaults evolve 512 schedules four times for a batch of 64, half a minute on two
# cores; spaces of a few thousand points and batches of 8 to 32 need no more than this: 32
# schedules, evolved twice.
_POPULATION = {"population_size": 32, "init_min_unmeasured": 16, "genetic_num_iters": 2}


def tune_context(
    module: Any,
    target: Any,
    generator: Any,
    name: str,
    threads: int,
    seed: int,
    patience: int = DesignSpace.patience,
) -> Any:
    """A TuneContext made without its Python constructor, which imports every tensor intrinsic.

    Parameters
    ----------
    module : tvm.IRModule
        The description of a variant.
    target : tvm.target.Target
        What schedules are for.
    generator : meta_schedule.SpaceGenerator
        The variant's schedules.
    name : str
        Of the variant, for the log.
    threads : int
        That schedule side by side.
    seed : int
        Of what evolution samples.
    patience : int
        Rounds of sampling without a valid schedule that evolution bears with.
    """
    from tvm.s_tir.meta_schedule import _ffi_api
    from tvm.s_tir.meta_schedule.logging import get_logging_func
    from tvm.s_tir.meta_schedule.search_strategy import EvolutionarySearch

    context = _ffi_api.TuneContext(  # pyright: ignore[reportAttributeAccessIssue]
        module,
        target,
        generator,
        EvolutionarySearch(**_POPULATION, max_fail_count=patience),
        name,
        threads,
        seed,
        get_logging_func(_LOGGER),
    )
    _ffi_api.TuneContextInitialize(context)  # pyright: ignore[reportAttributeAccessIssue]
    return context
