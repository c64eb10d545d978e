"""The native engine's library: in every image that has the operators, and what it links."""

from __future__ import annotations

from typing import Any

LIBRARY = "/opt/native/libpaddle_stacks_native.so"


def test_the_library_is_no_larger_than_agreed(host: Any) -> None:
    assert host.file(LIBRARY).size < 2 * 10**6


def test_the_library_loads_with_the_interface_of_the_code(host: Any) -> None:
    program = f"import ctypes; print(ctypes.CDLL('{LIBRARY}').ps_abi())"
    assert host.check_output(f'python -c "{program}"') == "1"


def test_a_processor_without_avx_is_supported(host: Any) -> None:
    program = f"import ctypes; print(ctypes.CDLL('{LIBRARY}').ps_instruction_set())"
    output = host.check_output(f'env PADDLE_STACKS_PLAIN_X86=1 python -c "{program}"')
    assert output == "1"  # PS_PLAIN
