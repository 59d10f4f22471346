"""Where candidates come from: small spaces point by point, large ones by evolution."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import tvm_ffi
from small_spaces import split_scores
from tvm.s_tir.meta_schedule.cost_model import RandomModel
from tvm.s_tir.meta_schedule.mutator import MutateTileSize
from tvm.s_tir.meta_schedule.space_generator import ScheduleFn
from tvm.target import Target

from prefilltune.database import apply_trace
from prefilltune.tuning.search.strategies import Enumeration, Evolution, Strategy, make_strategy
from prefilltune.tuning.search.strategies.context import tune_context
from prefilltune.workloads import PrefillShape, PrefillSpec, plain_attention

MODULE = plain_attention(PrefillSpec(2, 2, 16, "float32"), PrefillShape(2, 24))


def _strategy(schedule: Callable[[Any], object], threads: int = 2) -> Strategy:
    mutators = {MutateTileSize(): 1.0}
    generator = ScheduleFn(schedule, sch_rules=[], postprocs=[], mutator_probs=mutators)
    target = Target({"kind": "llvm", "num-cores": 2})
    context = tune_context(MODULE, target, generator, "test", threads, 1)
    return make_strategy(context, RandomModel(), 8, 0, "test")


def test_every_point_of_a_small_space_comes_once() -> None:
    strategy = _strategy(lambda sch: split_scores(sch, [2, 4, 8], ["dot", "scores"]))
    assert isinstance(strategy, Enumeration)
    proposals = [*strategy.propose(4), *strategy.propose(4), *strategy.propose(4)]
    assert len(proposals) == 9
    assert strategy.propose(1) == []
    assert len({json.dumps(each.trace) for each in proposals}) == 9
    assert len({tvm_ffi.structural_hash(each.module) for each in proposals}) == 9


def test_threads_change_neither_points_nor_their_order() -> None:
    def traces(threads: int) -> list[Any]:
        strategy = _strategy(lambda sch: split_scores(sch, [2, 1, 4, 8], ["dot"]), threads)
        return [each.trace for count in (2, 9) for each in strategy.propose(count)]

    assert traces(1) == traces(3)
    assert len(traces(1)) == 3


def test_a_point_without_a_schedule_is_passed_over() -> None:
    strategy = _strategy(lambda sch: split_scores(sch, [2, 1, 4], ["dot"]))
    assert len(strategy.propose(9)) == 2


def test_proposals_replay_from_their_json() -> None:
    strategy = _strategy(lambda sch: split_scores(sch, [2, 4], ["dot"]))
    for proposal in strategy.propose(2):
        schedule = apply_trace(json.loads(json.dumps(proposal.trace)), MODULE)
        assert tvm_ffi.structural_equal(schedule.mod, proposal.module)


def test_a_space_without_decisions_has_one_point() -> None:
    strategy = _strategy(lambda sch: sch.parallel(sch.get_loops(sch.get_sblock("dot"))[0]))
    assert len(strategy.propose(8)) == 1
    assert strategy.propose(8) == []


def test_other_spaces_evolve() -> None:
    def tiled(sch: Any) -> None:
        column = sch.get_loops(sch.get_sblock("dot"))[3]
        sch.split(column, factors=sch.sample_perfect_tile(column, n=3))

    def too_many(sch: Any) -> None:
        split_scores(sch, [2, 3, 4, 5, 6, 7, 8], ["dot", "scores", "weights"])

    for schedule in (tiled, too_many):
        strategy = _strategy(schedule)
        assert isinstance(strategy, Evolution)
        assert strategy.propose(8)
