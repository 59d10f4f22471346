"""Copies installed packages with UD2 for each CPUID, which `without_avx512.c` answers instead.

For CPUs that cannot fault at CPUID. What a disassembler (binutils' objdump) takes for the
instruction is replaced, in every shared library of the packages. PyTorch and OpenBLAS need no copy:
variables of theirs choose kernels::

    cc -O2 -shared -fPIC benchmarks/without_avx512.c -o /tmp/without_avx512.so
    python benchmarks/plant_cpuid.py onnxruntime --output /tmp/planted
    LD_PRELOAD=/tmp/without_avx512.so PYTHONPATH=/tmp/planted ATEN_CPU_CAPABILITY=avx2 \\
        ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 OPENBLAS_CORETYPE=Haswell \\
        python benchmarks/cpu_rivals.py ...
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

CPUID, UD2 = b"\x0f\xa2", b"\x0f\x0b"
_INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+0f a2\s+cpuid\b", re.MULTILINE)
#: Address, size and place in the file, of a section's line.
_TEXT = re.compile(r"^\s*\d+ \S+\s+([0-9a-f]+)  ([0-9a-f]+)  [0-9a-f]+  ([0-9a-f]+)", re.MULTILINE)


def objdump(option: str, library: Path) -> str:
    """What it prints of a library."""
    arguments = ["objdump", option, str(library)]
    return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout


def plant(library: Path) -> int:
    """Replace each CPUID of a shared library; how many there were."""
    sections = [[int(each, 16) for each in line] for line in _TEXT.findall(objdump("-h", library))]
    content = bytearray(library.read_bytes())
    addresses = [int(each, 16) for each in _INSTRUCTION.findall(objdump("-d", library))]
    for address in addresses:
        (place,) = [
            offset + address - begin
            for size, begin, offset in sections
            if begin <= address < begin + size
        ]
        assert content[place : place + len(CPUID)] == CPUID, (library, hex(address))
        content[place : place + len(UD2)] = UD2
    if addresses:
        library.write_bytes(content)
    return len(addresses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packages", nargs="+")
    parser.add_argument("--output", type=Path, required=True, help="for PYTHONPATH")
    options = parser.parse_args()
    for name in options.packages:
        spec = find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise SystemExit(f"{name}: no such package is installed: pip install {name}")
        (folder,) = spec.submodule_search_locations
        copy = shutil.copytree(folder, options.output / name)
        for library in sorted(copy.rglob("*.so*")):
            print(library, plant(library))


if __name__ == "__main__":
    main()
