#!/usr/bin/env python3
"""Write the two headers of a DTK that no Debian package has: MIOpen's and hipBLASLt's.

Paddle's headers declare a loader for each function that they list by name and need
its declaration, and types, to compile; an operator library calls none of them. So the
functions come from Paddle's own lists, and the types are opaque.

usage: toolkit_headers.py PADDLE_INCLUDE OUTPUT
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

_STATUSES = (
    *("Success", "NotInitialized", "InvalidValue", "BadParm", "AllocFailed", "InternalError"),
    *("NotImplemented", "UnknownError", "UnsupportedOp"),
)
_ENUMS = {
    "miopenDataType_t": ("miopenHalf", "miopenFloat", "miopenInt32", "miopenBFloat16"),
    "miopenPoolingMode_t": ("Max", "Average", "AverageInclusive"),
    "miopenActivationMode_t": ("PASTHRU", "LOGISTIC", "TANH", "RELU", "CLIPPEDRELU"),
    "miopenConvolutionMode_t": ("miopenConvolution", "miopenTranspose"),
}
_PREFIXES = {"miopenPoolingMode_t": "miopenPooling", "miopenActivationMode_t": "miopenActivation"}
_ALIASES = "using miopenAcceleratorQueue_t = hipStream_t;"


def main(paddle: Path, output: Path) -> None:
    """Write ``miopen/miopen.h``, ``miopen/version.h`` and ``hipblaslt/hipblaslt.h``."""
    loaders = paddle / "paddle" / "phi" / "backends" / "dynload"
    miopen = (loaders / "miopen.h").read_text(encoding="utf-8")
    hipblaslt = (loaders / "hipblasLt.h").read_text(encoding="utf-8")
    used = miopen + "".join(
        path.read_text(encoding="utf-8")
        for path in (paddle / "paddle" / "phi" / "backends" / "gpu").rglob("*.h")
    )
    _write(output / "miopen" / "miopen.h", [*_miopen_types(used), *_declare("miopen", miopen)])
    version = [f"#define MIOPEN_VERSION_{part} {n}" for part, n in _VERSION.items()]
    _write(output / "miopen" / "version.h", version)
    body = ["#include <hipblas/hipblas.h>", "using hipblasLtHandle_t = void*;"]
    _write(output / "hipblaslt" / "hipblaslt.h", [*body, *_declare("hipblas", hipblaslt)])


_VERSION = {"MAJOR": 2, "MINOR": 20, "PATCH": 0}


def _miopen_types(used: str) -> list[str]:
    lines = ["#include <hip/hip_runtime.h>", _ALIASES]
    lines.append(_enum("miopenStatus_t", [f"miopenStatus{name}" for name in _STATUSES]))
    for name, values in _ENUMS.items():
        prefix = _PREFIXES.get(name, "")
        lines.append(_enum(name, [prefix + value for value in values]))
    known = {"miopenStatus_t", "miopenAcceleratorQueue_t", "miopenTensorFormat_t", *_ENUMS}
    handles = set(re.findall(r"\bmiopen[A-Z]\w*_t\b", used)) - known
    for handle in sorted(handles):
        tag = handle.removesuffix("_t")
        lines.append(f"struct {tag} {{}};\nusing {handle} = {tag}*;")
    return lines


def _declare(library: str, text: str) -> list[str]:
    # Variadic: any call of them is well-formed, and none is made.
    names = sorted(set(re.findall(r"__macro\((\w+)\)", re.sub(r"/\*.*?\*/", "", text, flags=re.S))))
    return [f'extern "C" {library}Status_t {name}(...);' for name in names]


def _enum(name: str, values: list[str]) -> str:
    return f"typedef enum {{ {', '.join(values)} }} {name};"


def _write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(["// Written by images/dcu-sim/toolkit_headers.py.", "#pragma once", *lines])
    path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
