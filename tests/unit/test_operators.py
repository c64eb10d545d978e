"""The scripts that build and check operators, and the stages that run them. Needs no engine."""

from __future__ import annotations

import importlib.util
import re
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from paddle_stacks.build.os_image import OsImage, dtk_reference
from paddle_stacks.build.variables import variables
from paddle_stacks.errors import RequestError
from paddle_stacks.locks import versions
from paddle_stacks.plan.backend import load
from paddle_stacks.settings import Settings

ROOT = Path(__file__).parents[2]
OURS = ROOT / "tests" / "paddlenlp"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(name).stem, ROOT / "images" / name)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


build_operators: Any = script("ops/build_operators.py")
check_operators: Any = script("ops/check_operators.py")
build_cpu_operators: Any = script("ops/build_cpu_operators.py")
check_framework: Any = script("framework/check_framework.py")

# What csrc/setup_hip.py builds at the commit that the backend dcu names.
UPSTREAM = {
    "dequant_int8",
    "encode_rotary_qk",
    "flash_attn_bwd",
    "fused_get_rotary_embedding",
    "get_output",
    "get_padding_offset",
    "get_padding_offset_v2",
    "get_token_penalty_multi_scores",
    "get_token_penalty_multi_scores_v2",
    "qkv_transpose_split",
    "quant_int8",
    "rebuild_padding",
    "rebuild_padding_v2",
    "save_output",
    "save_with_output",
    "set_stop_value_multi_ends",
    "set_stop_value_multi_ends_v2",
    "set_value_by_flags_and_idx",
    "set_value_by_flags_and_idx_v2",
    "step_paddle",
    "transpose_remove_padding",
    "update_inputs",
    "write_cache_kv",
    "write_int8_cache_kv",
}


def bundle(*entries: tuple[str, int]) -> bytes:
    """A shared object's bundle of code, as clang writes it: triples and sizes."""
    out = b"__CLANG_OFFLOAD_BUNDLE__" + struct.pack("<Q", len(entries))
    for triple, size in entries:
        out += struct.pack("<QQQ", 4096, size, len(triple)) + triple.encode()
    return out


def test_the_architectures_are_read_from_the_bundles() -> None:
    content = (
        b"\x7fELF"
        + bundle(("host-x86_64-unknown-linux--", 0), ("hipv4-amdgcn-amd-amdhsa--gfx906", 10))
        + b"between"
        + bundle(("hipv4-amdgcn-amd-amdhsa--gfx928:sramecc+:xnack-", 10))
    )
    assert check_operators.architectures(content) == {"gfx906", "gfx928"}


def test_an_architecture_with_no_code_is_not_there() -> None:
    assert check_operators.architectures(bundle(("hipv4-amdgcn-amd-amdhsa--gfx906", 0))) == set()
    assert check_operators.architectures(b"no bundle at all") == set()


def test_the_expected_operators_are_those_that_the_sources_register() -> None:
    assert build_operators._operators(OURS / "csrc" / "setup_hip.py") == {
        "get_padding_offset",
        "save_with_output",
    }
    external = OURS / "slm" / "model_zoo" / "gpt-3" / "external_ops" / "setup.py"
    assert build_operators._operators(external) == {"fused_ln", "fused_rms_norm"}


def test_the_operators_for_the_cpu_are_all_of_upstreams() -> None:
    sources = ROOT / "images" / "ops" / "cpu"
    names = build_cpu_operators._names(sources / "paddlenlp_ops", "PD_BUILD_OP")
    assert names == sorted(UPSTREAM)
    names = build_cpu_operators._names(sources / "fused_ln", "PD_BUILD_OP")
    assert names == ["fused_ln", "fused_rms_norm"]


def test_a_source_for_the_cpu_that_does_not_compile_ends_the_build(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('error: expected a semicolon')"]
    with pytest.raises(build_operators.BuildFailed, match=r"one\.cc does not compile"):
        build_cpu_operators._run(command, "one.cc does not compile")
    assert "expected a semicolon" in capsys.readouterr().err


def test_the_library_that_upstream_does_not_build_for_rocm_is_not_expected(tmp_path: Path) -> None:
    (tmp_path / "fast_ln").mkdir()
    (tmp_path / "fast_ln" / "ln_api.cpp").write_text("PD_BUILD_OP(fast_ln)")
    setup = tmp_path / "setup.py"
    setup.write_text('sources=["fast_ln/ln_api.cpp"]')
    assert build_operators._operators(setup) == set()


@pytest.mark.parametrize("archs", ["", "gfx", "gfx906,gfx928", "gfx906;", "sm_80", "notset"])
def test_a_wrong_list_of_architectures(archs: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert build_operators.main([str(OURS), "/nowhere", "--archs", archs]) == 1
    assert "not a list such as gfx906;gfx928" in capsys.readouterr().err


def test_a_newer_setuptools_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = ModuleType("setuptools")
    stand_in.__version__ = "80.9.0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "setuptools", stand_in)
    with pytest.raises(build_operators.BuildFailed, match="cannot be imported"):
        build_operators._check("gfx906")


def test_compilers_are_started_by_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_operators.os, "cpu_count", lambda: 64)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "MemAvailable:   8601600 kB\n")
    assert build_operators.compilers(1) == 12
    assert build_operators.compilers(3) == 4
    assert build_operators.compilers(100) == 1


def test_gits_submodules_come_with_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", subprocess.run)  # put back at the end
    build_operators._answer_git()
    done = subprocess.run(["git", "submodule", "update", "--init"], check=True)
    assert done.returncode == 0
    assert subprocess.run(["true"], check=True).returncode == 0


def test_a_package_that_moved_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_framework.importlib.metadata, "version", lambda _: "2.0")
    assert check_framework.pins("numpy==1.26.4 \\\n    --hash=sha256:0\nsix==2.0\n") == [
        "numpy: expected 1.26.4, got 2.0"
    ]


@pytest.mark.parametrize("image", ["framework", "train"])
def test_the_dcus_lock_has_all_but_paddle(image: str) -> None:
    lock = (ROOT / "images" / image / "requirements.dcu.lock").read_text()
    found = versions(lock)
    assert "paddlepaddle" not in found and "paddlepaddle-dcu" not in found
    assert int(found["setuptools"].partition(".")[0]) < 80
    assert int(found["numpy"].partition(".")[0]) < 2
    assert "tomli" in found, "Python 3.10 has no tomllib"
    tested = versions((ROOT / "images" / image / "requirements.cpu.lock").read_text())
    assert found["paddlenlp"] == tested["paddlenlp"]
    pins = re.findall(r"^\S+==", lock, re.MULTILINE)
    assert len(pins) <= lock.count("--hash=sha256:")


def test_the_dcu_and_the_simulated_dcu_differ_in_their_base_alone() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    bodies = {
        stage: body.strip()
        for stage, body in re.findall(
            r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)",
            re.sub(r"^\s*#.*\n", "", dockerfile, flags=re.M),
            re.M | re.S,
        )
    }
    own = {stage for stage in bodies if stage.endswith(("-dcu", "-dcu-sim")) and bodies[stage]}
    assert own == {
        "dtk-dcu",  # the DTK's image,
        "dtk-dcu-sim",  # and what stands in for it
        "headers-dcu",  # a header that Debian has a package of
        "training-dcu",  # which training-dcu-sim is, by another name,
        "ops-dcu",  # which ops-dcu-sim is, by another name
    }
    assert re.search(r"^FROM ops-dcu AS ops-dcu-sim$", dockerfile, re.M)
    for backend in ("dcu", "dcu-sim"):
        assert re.search(rf"^FROM training-dcu AS infer-{backend}$", dockerfile, re.M)
    assert re.search(r"^FROM training-dcu AS training-dcu-sim$", dockerfile, re.M)


def settings(**changes: Any) -> Settings:
    return Settings(root=ROOT, workspace=ROOT, **{"backend": "dcu", **changes})


DEBIAN = OsImage("debian:x", "sha256:1", "registry")
DTK = OsImage("host/device/paddle-dcu:tag", "sha256:2", "registry")


def test_a_dcus_build_says_what_it_starts_from() -> None:
    found = variables(settings(), DEBIAN, DTK)
    assert (found["OS_IMAGE"], found["DTK_IMAGE"]) == ("debian:x", DTK.reference)
    assert (found["OS_NAME"], found["OS_DIGEST"]) == (DTK.reference, "sha256:2")
    assert found["GFX_ARCHS"] == "gfx906;gfx926;gfx928"
    assert found["LOCK"] == "dcu" and found["PADDLE_VERSION"] == "3.0.0b2"
    assert re.fullmatch(r"https://\S+\.git#[0-9a-f]{40}", found["PADDLENLP_SRC"])
    assert found["PADDLENLP_SOURCE"] == found["PADDLENLP_SRC"]


def test_a_label_does_not_say_where_somebody_keeps_the_source(tmp_path: Path) -> None:
    (tmp_path / "PaddleNLP" / "csrc").mkdir(parents=True)
    given = settings(paddlenlp_src=str(tmp_path / "PaddleNLP"))
    found = variables(given, DEBIAN, DTK)
    assert found["PADDLENLP_SRC"] == str(tmp_path / "PaddleNLP")
    assert found["PADDLENLP_SOURCE"] == "PaddleNLP@unknown"
    assert variables(settings(backend="dcu-sim"), DEBIAN)["PADDLENLP_SOURCE"] == "tests/paddlenlp"


def test_a_source_that_is_not_one(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        variables(settings(paddlenlp_src=str(tmp_path)), DEBIAN, DTK)
    assert "is not PaddleNLP's source" in caught.value.problems[0].what


@pytest.mark.parametrize("given", ["gfx928;gfx936", "gfx928, gfx936", "gfx928 gfx936"])
def test_the_architectures_can_be_chosen(given: str) -> None:
    assert variables(settings(gfx_archs=given), DEBIAN, DTK)["GFX_ARCHS"] == "gfx928;gfx936"
    assert variables(settings(gfx_archs=given, backend="cpu"), DEBIAN)["GFX_ARCHS"] == ""


@pytest.mark.parametrize("given", ["sm_80", "gfx", "928", "gfx928;;k100"])
def test_an_architecture_that_is_none(given: str) -> None:
    with pytest.raises(RequestError) as caught:
        variables(settings(gfx_archs=given), DEBIAN, DTK)
    assert caught.value.problems[0].where == "gfx_archs"


def test_a_cpus_build_has_nothing_of_a_dcu() -> None:
    found = variables(settings(backend="cpu"), DEBIAN)
    assert {found[k] for k in ("DTK_IMAGE", "GFX_ARCHS", "PADDLENLP_SRC", "WHEELS")} == {""}


def test_the_dtks_image_can_come_from_another_registry() -> None:
    assert dtk_reference(settings()).startswith(
        "registry.baidubce.com/device/paddle-dcu:dtk24.04.1"
    )
    assert dtk_reference(settings(registry="local:5000/mirror/")).startswith(
        "local:5000/mirror/device/paddle-dcu:dtk24.04.1"
    )
    assert dtk_reference(settings(dtk_image="x@sha256:1")) == "x@sha256:1"
    assert dtk_reference(settings(backend="dcu-sim")) == ""


def test_k100_ai_is_among_the_defaults() -> None:
    assert "gfx928" in load("dcu", ROOT).architectures
