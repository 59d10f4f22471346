"""Compiling CUDA source to machine code with NVRTC, which needs neither a toolkit nor a GPU."""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..environment import pip_install
from ..errors import EnvironmentMismatchError, KernelCompileError

_INSTALL = pip_install("prefilltune[cuda]")
# As TVM passes them: the register level moves the time of a kernel.
_OPTIONS = (
    "-default-device",
    "--device-int128",
    "--use_fast_math",
    "--ptxas-options=-v",
    "--ptxas-options=--register-usage-level=10",
    "--ptxas-options=--warn-on-local-memory-usage",
)
_PREAMBLE = """\
#define INFINITY (__int_as_float(0x7f800000))
struct alignas(64) CUtensorMap_st { unsigned long long opaque[16]; };
typedef struct CUtensorMap_st CUtensorMap;
"""
# All that TVM's generated source takes from CCCL, which no package of the extra [cuda] brings and
# which takes longer to parse than a kernel.
_HEADERS = {
    "cuda/std/cstdint": """\
#pragma once
namespace cuda { namespace std {
using int8_t = signed char;
using int16_t = short;
using int32_t = int;
using int64_t = long;
using uint8_t = unsigned char;
using uint16_t = unsigned short;
using uint32_t = unsigned int;
using uint64_t = unsigned long;
} }
""",
    "cuda/std/type_traits": """\
#pragma once
namespace cuda { namespace std {
template <bool Value> struct bool_constant { static constexpr bool value = Value; };
template <typename T, typename U> struct is_same : bool_constant<false> {};
template <typename T> struct is_same<T, T> : bool_constant<true> {};
template <typename T, typename U> inline constexpr bool is_same_v = is_same<T, U>::value;
template <typename T> struct is_integral : bool_constant<false> {};
template <typename T> struct is_floating_point : bool_constant<false> {};
#define PREFILLTUNE_IS(trait, type) template <> struct trait<type> : bool_constant<true> {}
PREFILLTUNE_IS(is_integral, bool);
PREFILLTUNE_IS(is_integral, char);
PREFILLTUNE_IS(is_integral, signed char);
PREFILLTUNE_IS(is_integral, unsigned char);
PREFILLTUNE_IS(is_integral, short);
PREFILLTUNE_IS(is_integral, unsigned short);
PREFILLTUNE_IS(is_integral, int);
PREFILLTUNE_IS(is_integral, unsigned int);
PREFILLTUNE_IS(is_integral, long);
PREFILLTUNE_IS(is_integral, unsigned long);
PREFILLTUNE_IS(is_integral, long long);
PREFILLTUNE_IS(is_integral, unsigned long long);
PREFILLTUNE_IS(is_floating_point, float);
PREFILLTUNE_IS(is_floating_point, double);
#undef PREFILLTUNE_IS
template <typename T> struct is_signed : bool_constant<(T(-1) < T(0))> {};
template <typename T> struct is_unsigned : bool_constant<!(T(-1) < T(0))> {};
template <bool Condition, typename T = void> struct enable_if {};
template <typename T> struct enable_if<true, T> { using type = T; };
template <bool Condition, typename T, typename U> struct conditional { using type = T; };
template <typename T, typename U> struct conditional<false, T, U> { using type = U; };
} }
""",
}


@dataclass(frozen=True)
class Cubin:
    """Machine code for one architecture.

    Parameters
    ----------
    image : bytes
        An ELF file that the driver loads without compiling anything.
    log : str
        What the compiler said: registers, spills, warnings.
    """

    image: bytes
    log: str


def compile_cubin(source: str, arch: str) -> Cubin:
    """Compile CUDA C++ for one architecture.

    Parameters
    ----------
    source : str
        As TVM's code generator writes it.
    arch : str
        Such as ``sm_90a``.

    Raises
    ------
    EnvironmentMismatchError
        If NVRTC or CUDA's headers are missing, or NVRTC does not know ``arch``.
    KernelCompileError
        If the source does not compile.
    """
    nvrtc = _nvrtc()
    names = [name.encode() for name in _HEADERS]
    texts = [text.encode() for text in _HEADERS.values()]
    program = _value(
        nvrtc,
        nvrtc.nvrtcCreateProgram(
            (_PREAMBLE + source).encode(), b"kernel.cu", len(names), texts, names
        ),
    )
    includes = [f"-I{folder}" for folder in _include_folders()]
    options = [each.encode() for each in (f"--gpu-architecture={arch}", *includes, *_OPTIONS)]
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        log = bytearray(_value(nvrtc, nvrtc.nvrtcGetProgramLogSize(program)))
        _value(nvrtc, nvrtc.nvrtcGetProgramLog(program, log))
        text = log.rstrip(b"\0").decode(errors="replace").strip()
        if status == nvrtc.nvrtcResult.NVRTC_ERROR_INVALID_OPTION:
            raise EnvironmentMismatchError(_unknown_arch(arch, nvrtc))
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise KernelCompileError(
                f"NVRTC refuses a generated kernel for {arch}: {_errors(text)[:2000]}"
            )
        image = bytearray(_value(nvrtc, nvrtc.nvrtcGetCUBINSize(program)))
        _value(nvrtc, nvrtc.nvrtcGetCUBIN(program, image))
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return Cubin(bytes(image), text)


def _unknown_arch(arch: str, nvrtc: Any) -> str:
    """What an error says of an architecture that NVRTC does not know."""
    known = _value(nvrtc, nvrtc.nvrtcGetSupportedArchs())
    number = int("".join(filter(str.isdigit, arch)))
    mend = (
        "for older GPUs need CUDA 12's NVRTC, or an earlier one"
        if number < min(known)
        else f"or upgrade it; {pip_install('nvidia-cuda-nvrtc')} --upgrade"
    )
    names = ", ".join(f"sm_{each}" for each in known)
    return (
        f"NVRTC {nvrtc_version()} cannot compile for {arch}, only for {names}; choose another "
        f"--arch, {mend}"
    )


def _errors(log: str) -> str:
    """The lines of a compiler's log that say why it failed; all of it if none does.

    >>> _errors("k.cu(1): warning: unused\\nk.cu(2): error: undefined")
    'k.cu(2): error: undefined'
    """
    lines = log.splitlines()
    return "\n".join(each for each in lines if "error" in each or "fatal" in each) or log


def check_nvrtc() -> None:
    """Refuse a machine that cannot compile CUDA source.

    Raises
    ------
    EnvironmentMismatchError
        If NVRTC or CUDA's headers are missing.
    """
    _nvrtc()
    _include_folders()


def nvrtc_version() -> str:
    """Of the compiler, such as ``13.0``."""
    nvrtc = _nvrtc()
    _, major, minor = nvrtc.nvrtcVersion()
    return f"{major}.{minor}"


@lru_cache(maxsize=1)
def _nvrtc() -> Any:
    try:
        from cuda.bindings import nvrtc  # pyright: ignore[reportAttributeAccessIssue]

        _value(nvrtc, nvrtc.nvrtcVersion()[:2])
    except (ImportError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise EnvironmentMismatchError(
            f"kernels for CUDA are compiled with NVRTC, which cannot be loaded ({reason}); "
            f"{_INSTALL}"
        ) from error
    return nvrtc


def _value(nvrtc: Any, result: tuple[Any, ...]) -> Any:
    status, *values = result
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise RuntimeError(f"NVRTC ended in {status.name}")
    return values[0] if values else None


@lru_cache(maxsize=1)
def _include_folders() -> tuple[Path, ...]:
    for folder in _candidate_folders():
        if (folder / "cuda_fp16.h").is_file():
            return tuple(each for each in (folder, folder / "cccl") if each.is_dir())
    raise EnvironmentMismatchError(
        f"CUDA's headers (cuda_fp16.h) are found neither in a package nor in a toolkit; {_INSTALL}"
    )


def _candidate_folders() -> list[Path]:
    """Where CUDA's own headers may lie: in its packages, or in a toolkit."""
    spec = importlib.util.find_spec("nvidia")
    packages = [Path(each) for each in (spec and spec.submodule_search_locations) or ()]
    toolkits = [os.environ.get("CUDA_PATH"), os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    if compiler := shutil.which("nvcc"):
        toolkits.append(str(Path(compiler).resolve().parent.parent))
    return [
        *(folder for root in packages for folder in sorted(root.glob("*/include"))),
        *(Path(toolkit) / "include" for toolkit in toolkits if toolkit),
    ]
