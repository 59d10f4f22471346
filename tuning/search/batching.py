"""How far sampling and building may be ahead of measuring: the bounds of a search.

A search proposes candidates in batches. The larger they are, and the more of them are under way,
the less often devices wait; but whatever was proposed before a time was known has not learnt from
it. What is right depends on who measures, hence three modes: this CPU, one device beside it, or
several devices.
"""

from __future__ import annotations

from dataclasses import dataclass

# Sampling and evolving eight candidates takes hardly longer than one: fewer would save nothing.
_SMALLEST_BATCH = 8

# For a generation of any size, evolution looks at 96 schedules: a population of 32, and twice 32
# that are bred from it. Up to 32 candidates it picks the best third or fewer; with more, hardly
# anything would be left to pick from.
_LARGEST_GENERATION = 32

# Candidates of one arm that tell whether it is worth another turn.
_FEW = 2


@dataclass(frozen=True)
class Batching:
    """The bounds of a search; made by one of the functions of this module.

    Parameters
    ----------
    alone : bool
        Whether nothing is sampled or built while kernels are timed.
    batch : int
        Most candidates that are built for one batch.
    one_arm : bool
        Whether a batch is what one arm proposes; else arms take turns until it is full.
    first_turn, later_turn : int
        Candidates that are asked of an arm at its first turn, when nothing speaks for it, and at
        each later one, which it gets for being fast.
    generation : int
        Candidates that an arm proposes at once where it is evolved, whatever it is asked for.
    under_way : tuple[int, int]
        Most measurements under way while the next batch is sampled, at the start of a search and
        later on.
    sampled_ahead : int
        Arms before their first turn that builders sample meanwhile.
    sampling_threads : int
        That schedule candidates of an arm whose turn has come.
    measuring_threads : int
        Candidates that are waited for at a time: to be built, or to be measured.
    """

    alone: bool
    batch: int
    one_arm: bool
    first_turn: int
    later_turn: int
    generation: int
    under_way: tuple[int, int]
    sampled_ahead: int
    sampling_threads: int
    measuring_threads: int

    def left(self, proposed: int) -> int:
        """Most measurements under way before the next batch is sampled, of so many candidates.

        Half of all, within the bounds: few at first, so that arms learn early; later more, so that
        no device waits while the oldest batch has a slow candidate.
        """
        few, many = self.under_way
        return max(few, min(many, proposed // 2))

    def most_arms(self, trials: int) -> int:
        """Arms that a limit of so many trials lets try and refine: half the trials are for that."""
        return max(2, trials // (2 * self.first_turn))


def on_this_cpu(cores: int, threads: int) -> Batching:
    """Kernels are timed on the cores that sample and build, which therefore do nothing else then.

    A batch keeps each core busy with two builds, and all of it has been measured before the next is
    sampled. It is of two arms, one that is tried first and one that is fast.

    Parameters
    ----------
    cores : int
        That build.
    threads : int
        Of the kernels, which sample too.
    """
    batch = max(_SMALLEST_BATCH, 2 * cores)
    return Batching(
        alone=True,
        batch=batch,
        one_arm=False,
        first_turn=batch // 2,
        later_turn=batch // 2,
        generation=batch,
        under_way=(0, 0),
        sampled_ahead=0,
        sampling_threads=threads,
        measuring_threads=1,
    )


def beside_one_device(cores: int) -> Batching:
    """A device measures one batch while the cores sample and build the next.

    Arms share a batch, a few candidates each.
    """
    batch = max(_SMALLEST_BATCH, cores)
    return Batching(
        alone=False,
        batch=batch,
        one_arm=False,
        first_turn=_FEW,
        later_turn=_FEW,
        generation=batch,
        under_way=(batch, batch),
        sampled_ahead=max(1, cores // 2),
        sampling_threads=cores,
        measuring_threads=1,
    )


def beside_devices(cores: int, devices: int) -> Batching:
    """Several devices measure, and wait for no batch as a whole.

    A batch is one arm's, which waits for no other arm's. It holds a candidate for each device (two
    where it is evolved), or for a quarter of them, 2 to 8, where the arm was never tried. While the
    next is sampled, a batch and two candidates for each device are under way, later up to six.
    """
    later_turn = max(_SMALLEST_BATCH, devices)
    generation = max(_SMALLEST_BATCH, min(2 * devices, _LARGEST_GENERATION))
    batch = max(later_turn, generation)
    return Batching(
        alone=False,
        batch=batch,
        one_arm=True,
        first_turn=max(_FEW, min(devices // 4, _SMALLEST_BATCH)),
        later_turn=later_turn,
        generation=generation,
        under_way=(batch + 2 * devices, batch + 6 * devices),
        sampled_ahead=max(1, cores // 2),
        sampling_threads=cores,
        measuring_threads=2 * devices,  # some wait for builds while one a device is measured
    )
