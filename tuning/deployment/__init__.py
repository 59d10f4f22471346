"""From records to one kernel for every size: boundaries, dispatch on the host, the drop-in."""

from .boundaries import Leaf, Point, Range, Sizes, Split, Tree, choose, grow, leaves, ranges
from .candidates import candidates
from .factory import sequence_prefill_with_mask, serving_kernel
from .kernel import dispatching_kernel
from .lengths import Lengths
from .serving import ON_MISSING, Serving, choose_kernel, choose_serving
from .swap import Swap, swap_prefill_kernels, swap_prefill_pass
from .sweep_file import SWEEP_FILE, Sweep, read_sweeps, write_sweep
from .sweeping import measure_sweep, sample

__all__ = [
    "ON_MISSING",
    "SWEEP_FILE",
    "Leaf",
    "Lengths",
    "Point",
    "Range",
    "Serving",
    "Sizes",
    "Split",
    "Swap",
    "Sweep",
    "Tree",
    "candidates",
    "choose",
    "choose_kernel",
    "choose_serving",
    "dispatching_kernel",
    "grow",
    "leaves",
    "measure_sweep",
    "ranges",
    "read_sweeps",
    "sample",
    "sequence_prefill_with_mask",
    "serving_kernel",
    "swap_prefill_kernels",
    "swap_prefill_pass",
    "write_sweep",
]
