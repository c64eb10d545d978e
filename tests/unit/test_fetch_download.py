"""A download goes on where it was cut off, and nothing wrong gets a final name."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from entrypoints.fetching import download as fetching
from entrypoints.fetching.download import NotFoundError, download, trust_bundle
from paddle_stacks.errors import JobError, MachineError, RequestError
from tests.support.loopback import Server, serving

CONTENT = bytes(range(256)) * 20_000  # 5 MB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with serving() as state:
        state.files["/m.bin"] = CONTENT
        yield state


def ranges(server: Server) -> list[str | None]:
    return [headers.get("range") for _, headers in server.requests]


def test_a_file_comes_whole(server: Server, tmp_path: Path) -> None:
    download(f"{server.url}/m.bin", tmp_path / "a" / "m.bin", sha256=SHA256)
    assert (tmp_path / "a" / "m.bin").read_bytes() == CONTENT
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["m.bin"]


def test_a_whole_file_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(CONTENT)
    download(f"{server.url}/m.bin", tmp_path / "m.bin", sha256=SHA256)
    assert server.requests == []


def test_a_cut_connection_goes_on(server: Server, tmp_path: Path) -> None:
    server.cut_after = [1_000_000, 2_000_000]
    download(f"{server.url}/m.bin", tmp_path / "m.bin", sha256=SHA256, pause=0)
    assert (tmp_path / "m.bin").read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=1000000-", "bytes=3000000-"]


def test_a_stalled_connection_is_given_up_and_goes_on(server: Server, tmp_path: Path) -> None:
    server.stall_after = [1_000_000]
    download(f"{server.url}/m.bin", tmp_path / "m.bin", sha256=SHA256, timeout=0.5, pause=0)
    assert (tmp_path / "m.bin").read_bytes() == CONTENT
    assert ranges(server)[1] is not None


def test_a_killed_process_goes_on_next_time(server: Server, tmp_path: Path) -> None:
    server.stall_after = [3_000_000]
    code = (
        "import sys; from pathlib import Path; from entrypoints.fetching.download import download;"
        "download(sys.argv[1], Path(sys.argv[2]))"
    )
    target, part = tmp_path / "m.bin", tmp_path / "m.bin.part"
    process = subprocess.Popen(
        [sys.executable, "-c", code, f"{server.url}/m.bin", str(target)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    deadline = time.monotonic() + 30
    while not part.is_file() or part.stat().st_size < 2_000_000:
        assert time.monotonic() < deadline, "nothing came"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    have = part.stat().st_size
    assert not target.exists()
    download(f"{server.url}/m.bin", target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert ranges(server) == [None, f"bytes={have}-"]


def test_a_part_of_another_version_is_not_gone_on_with(server: Server, tmp_path: Path) -> None:
    server.cut_after = [1_000_000]
    with pytest.raises(JobError):
        download(f"{server.url}/m.bin", tmp_path / "m.bin", attempts=1)
    server.etag, server.files["/m.bin"] = '"two"', CONTENT[::-1]
    download(f"{server.url}/m.bin", tmp_path / "m.bin")
    assert (tmp_path / "m.bin").read_bytes() == CONTENT[::-1]


def test_killed_between_two_versions_it_is_not_a_mixture(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.cut_after = [1_000_000]
    with pytest.raises(JobError):
        download(f"{server.url}/m.bin", tmp_path / "m.bin", attempts=1)
    server.etag, server.files["/m.bin"] = '"two"', CONTENT[::-1]
    remember = fetching._remember

    def and_die(*arguments: object) -> None:
        remember(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as dying, pytest.raises(KeyboardInterrupt):
        dying.setattr(fetching, "_remember", and_die)
        download(f"{server.url}/m.bin", tmp_path / "m.bin")
    download(f"{server.url}/m.bin", tmp_path / "m.bin")
    assert (tmp_path / "m.bin").read_bytes() == CONTENT[::-1]


def test_a_part_from_another_address_is_not_gone_on_with(server: Server, tmp_path: Path) -> None:
    server.cut_after = [1_000_000]
    server.files["/n.bin"] = CONTENT[::-1]
    with pytest.raises(JobError):
        download(f"{server.url}/m.bin", tmp_path / "m.bin", attempts=1)
    download(f"{server.url}/n.bin", tmp_path / "m.bin")
    assert (tmp_path / "m.bin").read_bytes() == CONTENT[::-1]


def test_a_server_without_ranges_begins_anew(server: Server, tmp_path: Path) -> None:
    server.cut_after, server.ranges = [1_000_000], False
    download(f"{server.url}/m.bin", tmp_path / "m.bin", sha256=SHA256, pause=0)
    assert (tmp_path / "m.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(("sha256", "begin"), [(SHA256, "bytes=1000000-"), ("", None)])
def test_a_server_that_names_no_version_is_trusted_only_with_a_sum(
    server: Server, tmp_path: Path, sha256: str, begin: str | None
) -> None:
    server.cut_after, server.etag = [1_000_000], ""
    download(f"{server.url}/m.bin", tmp_path / "m.bin", sha256=sha256, pause=0)
    assert (tmp_path / "m.bin").read_bytes() == CONTENT
    assert ranges(server) == [None, begin]


def test_a_part_longer_than_the_file_begins_anew(server: Server, tmp_path: Path) -> None:
    server.cut_after = [1_000_000]
    with pytest.raises(JobError):
        download(f"{server.url}/m.bin", tmp_path / "m.bin", attempts=1)
    with (tmp_path / "m.bin.part").open("ab") as stream:
        stream.write(b"x" * len(CONTENT))
    download(f"{server.url}/m.bin", tmp_path / "m.bin", sha256=SHA256, pause=0)
    assert (tmp_path / "m.bin").read_bytes() == CONTENT


def test_a_whole_part_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    server.cut_after = [1_000_000]
    with pytest.raises(JobError):
        download(f"{server.url}/m.bin", tmp_path / "m.bin", attempts=1)
    (tmp_path / "m.bin.part").write_bytes(CONTENT)
    download(f"{server.url}/m.bin", tmp_path / "m.bin")
    assert ranges(server) == [None, f"bytes={len(CONTENT)}-"]
    assert (tmp_path / "m.bin").read_bytes() == CONTENT


def test_a_wrong_sum_is_refused_and_nothing_is_kept(server: Server, tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        download(f"{server.url}/m.bin", tmp_path / "m.bin", sha256="0" * 64)
    assert caught.value.status == 2
    for words in ("m.bin", SHA256, "0" * 64):
        assert words in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_connection_that_always_breaks_is_an_error(server: Server, tmp_path: Path) -> None:
    server.cut_after = [1000] * 3
    with pytest.raises(JobError, match=r"closed|reset") as caught:
        download(f"{server.url}/m.bin", tmp_path / "m.bin", attempts=3, pause=0)
    assert caught.value.status == 5
    assert "resumes the download" in caught.value.problems[0].remedy
    assert not (tmp_path / "m.bin").exists()


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 429]
    download(f"{server.url}/m.bin", tmp_path / "m.bin", sha256=SHA256, pause=0)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (404, NotFoundError, "404"),
        (410, NotFoundError, "410"),
        (403, JobError, "403"),
        (401, JobError, "401"),
    ],
)
def test_a_refusal_is_not_repeated(
    server: Server, tmp_path: Path, status: int, error: type[JobError], words: str
) -> None:
    server.statuses = [status] * 9
    with pytest.raises(error, match=words) as caught:
        download(f"{server.url}/m.bin", tmp_path / "m.bin", pause=0)
    assert len(server.requests) == 1
    assert ("token" in caught.value.problems[0].remedy) == (status in (401, 403))
    assert list(tmp_path.glob("m.bin*")) == []


def test_redirects_are_followed_without_the_token(server: Server, tmp_path: Path) -> None:
    with serving() as elsewhere:
        elsewhere.files["/stored"] = CONTENT
        server.redirects["/moved.bin"] = f"{elsewhere.url}/stored"
        download(f"{server.url}/moved.bin", tmp_path / "m.bin", sha256=SHA256, token="secret")
        assert server.requests[0][1]["authorization"] == "Bearer secret"
        assert "authorization" not in elsewhere.requests[0][1]
    assert (tmp_path / "m.bin").read_bytes() == CONTENT


def test_a_loop_of_redirects_is_an_error(server: Server, tmp_path: Path) -> None:
    server.redirects["/m.bin"] = "/m.bin"
    with pytest.raises(JobError, match="redirect"):
        download(f"{server.url}/m.bin", tmp_path / "m.bin", pause=0)


def test_nobody_there_is_an_error(tmp_path: Path) -> None:
    with serving() as gone:
        url = gone.url
    with pytest.raises(JobError, match="cannot download"):
        download(f"{url}/m.bin", tmp_path / "m.bin", attempts=2, pause=0)


def test_a_local_index_gives_file_addresses(tmp_path: Path) -> None:
    source = tmp_path / "with space.bin"
    source.write_bytes(CONTENT)
    download(source.as_uri(), tmp_path / "m.bin", sha256=SHA256)
    assert (tmp_path / "m.bin").read_bytes() == CONTENT


@pytest.mark.skipif(not os.access("/dev/full", os.W_OK), reason="needs /dev/full")
def test_a_full_disk_is_the_machines_fault(server: Server, tmp_path: Path) -> None:
    (tmp_path / "m.bin.part").symlink_to("/dev/full")
    with pytest.raises(MachineError, match="No space left") as caught:
        download(f"{server.url}/m.bin", tmp_path / "m.bin")
    assert caught.value.status == 3
    assert not (tmp_path / "m.bin").exists()


def test_one_bundle_serves_all_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CERT", "/a.pem")
    trust_bundle()
    assert os.environ["SSL_CERT_FILE"] == os.environ["REQUESTS_CA_BUNDLE"] == "/a.pem"


@pytest.mark.parametrize("length", [True, False], ids=["told", "not told"])
def test_a_file_without_a_sum_has_a_limit(
    server: Server, tmp_path: Path, length: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server could send without end, and say nothing of it or something else."""
    if not length:
        import httpx

        monkeypatch.setattr(
            httpx.Headers, "get", lambda self, key, default=None: default or "", raising=True
        )
    with pytest.raises(RequestError, match="larger than the limit of 1000000 bytes"):
        download(f"{server.url}/m.bin", tmp_path / "m.bin", limit=1_000_000, pause=0)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1_000_000
    assert not (tmp_path / "m.bin").exists()


def test_a_file_of_this_machine_has_one_too(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(CONTENT)
    with pytest.raises(RequestError, match="larger than the limit of 100 bytes"):
        download((tmp_path / "source").as_uri(), tmp_path / "m.bin", limit=100)


def test_a_message_has_no_login(server: Server, tmp_path: Path) -> None:
    address = server.url.replace("://", "://me:hidden@")
    with pytest.raises(NotFoundError) as caught:
        download(f"{address}/nothing", tmp_path / "m.bin", pause=0)
    assert "hidden" not in caught.value.problems[0].where
