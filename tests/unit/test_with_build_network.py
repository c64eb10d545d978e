"""images/steps/with-build-network: a step gets the builder's network, and nothing of it stays."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "images" / "steps" / "with-build-network"

BUNDLE_VARIABLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
# Shows what a step sees: its variables, apt's configuration and the list of sources it names.
STUB = """
env
echo ---
cat "$APT_CONFIG"
echo ---
sources=$(sed -n 's/^Dir::Etc::sourcelist "\\(.*\\)";$/\\1/p' "$APT_CONFIG")
[ -z "$sources" ] || cat "$sources"
"""


@dataclass(frozen=True)
class Seen:
    variables: dict[str, str]
    apt: list[str]
    sources: str


@dataclass(frozen=True)
class Step:
    """A build step with a folder of secrets of its own."""

    folder: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        # The script reads fixed paths, which a build has.
        script = SOURCE.read_text()
        for path in ("/run/secrets", "/etc/os-release"):
            assert path in script
            script = script.replace(path, str(self.folder / Path(path).name))
        return subprocess.run(
            ["sh", "-c", script, "with-build-network", *command],
            env={"PATH": os.environ["PATH"], "TMPDIR": str(self.folder / "scratch")},
            capture_output=True,
            text=True,
            check=False,
        )

    def see(self) -> Seen:
        done = self.run("sh", "-c", STUB)
        assert (done.returncode, done.stderr) == (0, "")
        variables, apt, sources = done.stdout.split("---\n")
        pairs = (line.partition("=") for line in variables.splitlines())
        return Seen({key: value for key, _, value in pairs}, apt.splitlines(), sources)


@pytest.fixture
def step(tmp_path: Path) -> Step:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "scratch").mkdir()
    (tmp_path / "os-release").write_text("ID=debian\nVERSION_CODENAME=bookworm\n")
    return Step(tmp_path)


def secret(step: Step, name: str, text: str) -> Path:
    path = step.folder / "secrets" / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("given", ["nothing", "empty files"])
def test_without_secrets_nothing_changes(step: Step, given: str) -> None:
    if given == "empty files":  # what /dev/null as a secret's source gives
        secret(step, "ca_bundle", "")
        secret(step, "network", "")
    seen = step.see()
    shell = {"PATH", "TMPDIR", "PWD", "OLDPWD", "SHLVL", "_"}
    assert set(seen.variables) - shell == {"APT_CONFIG"}
    assert seen.apt == []
    assert seen.sources == ""


def test_a_bundle_reaches_pip_curl_and_apt(step: Step) -> None:
    bundle = str(secret(step, "ca_bundle", "certificates"))
    seen = step.see()
    assert [seen.variables.get(name) for name in BUNDLE_VARIABLES] == [bundle] * 4
    assert seen.apt == [f'Acquire::https::CaInfo "{bundle}";']
    assert "PIP_INDEX_URL" not in seen.variables


def test_proxies_reach_the_step(step: Step) -> None:
    address = "http://user:p%40ss=word@proxy.test:3128"
    secret(
        step, "network", f"http_proxy={address}\nhttps_proxy={address}\nno_proxy=a.test,b.test\n"
    )
    seen = step.see()
    assert seen.variables["http_proxy"] == seen.variables["https_proxy"] == address
    assert seen.variables["no_proxy"] == "a.test,b.test"
    assert seen.apt == []


def test_a_package_index_reaches_pip_and_uv(step: Step) -> None:
    address = "https://user:secret@index.test/simple?a=b"
    secret(step, "network", f"index_url={address}\n")
    seen = step.see()
    assert seen.variables["PIP_INDEX_URL"] == seen.variables["UV_DEFAULT_INDEX"] == address
    assert "http_proxy" not in seen.variables


def test_a_mirror_replaces_the_distributions_own(step: Step) -> None:
    secret(step, "network", "apt_mirror=https://mirror.test/debian\n")
    seen = step.see()
    assert seen.sources == "deb https://mirror.test/debian bookworm main\n"
    assert 'Dir::Etc::sourceparts "-";' in seen.apt


def test_a_bundle_and_a_mirror_together(step: Step) -> None:
    bundle = secret(step, "ca_bundle", "certificates")
    secret(step, "network", "apt_mirror=https://mirror.test/debian\nindex_url=https://index.test\n")
    seen = step.see()
    assert f'Acquire::https::CaInfo "{bundle}";' in seen.apt
    assert "https://mirror.test/debian" in seen.sources
    assert seen.variables["PIP_INDEX_URL"] == "https://index.test"
    assert seen.variables["PIP_CERT"] == str(bundle)


@pytest.mark.parametrize("status", [0, 3])
def test_nothing_is_left_and_the_status_is_the_commands(step: Step, status: int) -> None:
    secret(step, "network", "apt_mirror=https://mirror.test/debian\n")
    done = step.run("sh", "-c", f'test -s "$APT_CONFIG"; echo "$1"; exit {status}', "sh", "a  b")
    assert (done.returncode, done.stdout) == (status, "a  b\n")
    assert list((step.folder / "scratch").iterdir()) == []
