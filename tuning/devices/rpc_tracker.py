"""The process of TVM's RPC tracker."""

from __future__ import annotations

import sys

from ...database.orphans import end_with_parent
from ..measuring.tvm_import import import_tvm_without_torch


def main() -> None:
    """Listen as the command line says: host and port."""
    end_with_parent()
    import_tvm_without_torch()
    from tvm.rpc.tracker import PopenTrackerServerState

    host, port = sys.argv[1], int(sys.argv[2])
    tracker = PopenTrackerServerState(host, port, port + 1, silent=True)
    print(tracker.port, flush=True)
    tracker.thread.join()
    sys.exit(1)


if __name__ == "__main__":
    main()
