"""What a plan does next: which workload, and with which share of the devices and cores."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ...workloads import Case
from ..backends import backend_of
from ..devices.machine import Wanted
from ..target import ResolvedTarget, usable_cores
from .ledger import Ledger
from .plan import Plan
from .searcher import Allotment
from .sharing import HERE, Device, Devices, most_at_once, share


@dataclass(frozen=True)
class PlannedCase:
    """A workload of a plan on one of its targets.

    Parameters
    ----------
    case : Case
        What to tune.
    target : ResolvedTarget
        What for.
    spaces : tuple[str, ...]
        Names of design spaces.
    wanted : Wanted
        The target, as its devices are asked for it.
    devices : Devices
        Of the target.
    """

    case: Case
    target: ResolvedTarget
    spaces: tuple[str, ...]
    wanted: Wanted
    devices: Devices

    @property
    def name(self) -> str:
        """By which people and the plan's ledger know it."""
        return self.case.on(self.target.key)

    @property
    def alone(self) -> bool:
        """Whether any other search would disturb what it measures."""
        return self.devices == HERE and backend_of(self.target.kind).engine.alone


class Agenda:
    """The workloads of a plan, in the order in which they are worth another search.

    Parameters
    ----------
    plan : Plan
        Says how many searches there may be at a time.
    cases : Sequence[PlannedCase]
        Every workload on every target.
    ledger : Ledger
        Says what was done, and what is being searched for.

    Attributes
    ----------
    at_once : int
        Searches at a time, at most.
    """

    def __init__(self, plan: Plan, cases: Sequence[PlannedCase], ledger: Ledger) -> None:
        self._cases = {each.name: each for each in cases}
        self._ledger = ledger
        self._given_up: set[str] = set()
        cores = usable_cores()
        shared = list(dict.fromkeys(each.devices for each in cases if not each.alone))
        most = most_at_once(shared, plan.searches, cores)
        self._most = {HERE: 1, **most}
        self.at_once = max(1, min(plan.searches or cores, sum(most.values())))
        self._builders = max(1, cores // self.at_once)

    def next_case(self, taken: Collection[Device]) -> PlannedCase | None:
        """What to search for next, if that can be begun now.

        Parameters
        ----------
        taken : Collection[Device]
            Devices that are not free.
        """
        searching = self._ledger.searching
        if len(searching) == self.at_once:
            return None
        barred = {name for name, each in self._cases.items() if not self._has_room(each, taken)}
        name = self._ledger.next_case(barred | self._given_up | set(searching))
        if name is None:
            return None
        chosen, beside = self._cases[name], [self._cases[each] for each in searching]
        if beside and any(each.alone for each in (chosen, *beside)):
            return None  # nor is another chosen in its place: it would wait for ever
        return chosen

    def allotment(self, chosen: PlannedCase, taken: Collection[Device]) -> Allotment:
        """What to search for a workload with: a fair share of what is free."""
        devices = share(chosen.devices, taken, self._to_begin(chosen.devices))
        builders = usable_cores() if chosen.alone else self._builders
        return Allotment(devices, chosen.wanted, builders)

    def give_up(self, name: str) -> None:
        """Search for a workload no more in this run."""
        self._given_up.add(name)

    def _has_room(self, chosen: PlannedCase, taken: Collection[Device]) -> bool:
        return self._to_begin(chosen.devices) > 0 and not set(chosen.devices) <= set(taken)

    def _to_begin(self, devices: Devices) -> int:
        """How many searches may be begun on a group of devices, and have something to do."""
        of_group = [name for name, each in self._cases.items() if each.devices == devices]
        wanting = set(of_group) & set(self._ledger.undone) - self._given_up
        running = len(wanting & set(self._ledger.searching))
        return min(self._most[devices], len(wanting)) - running
