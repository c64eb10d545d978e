"""Detection of a host's DCU resources below any root, without privileges."""

from __future__ import annotations

from pathlib import Path

import pytest

from paddle_stacks.dcu.host import Driver, Host, Node, inside, look
from paddle_stacks.errors import MachineError


def test_an_empty_root_has_nothing(tmp_path: Path) -> None:
    assert look(tmp_path) == Host(tmp_path, (), None, None)
    assert look(tmp_path).node("/dev/kfd") is None
    assert look(tmp_path).gids(["/dev/kfd", "/dev/dri"]) == ()


def test_nodes_with_modes_in_natural_order(tmp_path: Path) -> None:
    # Plain files stand in for the nodes: creating real ones requires root.
    dri = tmp_path / "dev" / "dri"
    (dri / "by-path").mkdir(parents=True)
    for name in ("card10", "card2", "renderD128", "other"):
        (dri / name).touch()
    kfd = tmp_path / "dev" / "kfd"
    kfd.touch()
    kfd.chmod(0o640)
    host = look(tmp_path)
    assert [node.path for node in host.nodes] == [
        "/dev/kfd",
        "/dev/dri",
        "/dev/dri/card2",
        "/dev/dri/card10",
        "/dev/dri/renderD128",
    ]
    node = host.node("/dev/kfd")
    assert node == Node("/dev/kfd", str(kfd), kfd.stat().st_gid, 0o640)
    assert host.node("/dev/mkfd") is None


def test_groups_are_those_of_the_requested_nodes_without_root() -> None:
    nodes = (
        Node("/dev/kfd", "", 109, 0o660),
        Node("/dev/mkfd", "", 0, 0o600),
        Node("/dev/dri", "", 0, 0o755),
        Node("/dev/dri/card1", "", 44, 0o660),
        Node("/dev/dri/renderD128", "", 109, 0o660),
    )
    host = Host(Path("/"), nodes, None, None)
    assert host.gids(["/dev/kfd"]) == (109,)
    assert host.gids(["/dev/mkfd", "/dev/dri"]) == (44, 109)
    assert host.gids(["/dev/dri/"]) == (44, 109)
    assert host.gids(["/dev/dr"]) == ()


@pytest.mark.parametrize("target", ["/usr/local/hyhal", "../usr/local/hyhal", "../../../usr/./x"])
def test_links_are_followed_inside_the_root(tmp_path: Path, target: str) -> None:
    real = tmp_path / "usr" / "local" / "hyhal"
    real.mkdir(parents=True)
    (tmp_path / "usr" / "x").symlink_to("/usr/local/hyhal")
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt" / "hyhal").symlink_to(target)
    assert look(tmp_path).hyhal == str(real)
    assert inside(tmp_path, "/opt/hyhal/bin/hy-smi") == real / "bin" / "hy-smi"


def test_a_loop_of_links_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt" / "hyhal").symlink_to("/opt/hyhal")
    with pytest.raises(MachineError, match="too many levels of symbolic links"):
        look(tmp_path)


def test_a_dangling_link_is_not_a_hyhal(tmp_path: Path) -> None:
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt" / "hyhal").symlink_to("/usr/local/hyhal")
    assert look(tmp_path).hyhal is None


def test_the_newest_module_with_a_version_is_the_driver(tmp_path: Path) -> None:
    for module, version in (("hycu", ""), ("hydcu", "6.2.17a\n"), ("amdgpu", "5.16.18\n")):
        (tmp_path / "sys" / "module" / module).mkdir(parents=True)
        (tmp_path / "sys" / "module" / module / "version").write_text(version)
    assert look(tmp_path).driver == Driver("hydcu", "6.2.17a")
    (tmp_path / "sys" / "module" / "hycu" / "version").write_text("6.3.16\n")
    assert look(tmp_path).driver == Driver("hycu", "6.3.16")
