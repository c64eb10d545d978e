"""Where settings come from, which source wins, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from paddle_stacks import settings
from paddle_stacks.errors import RequestError


def test_the_defaults(tmp_path: Path) -> None:
    found = settings.load(tmp_path, environ={})
    assert found == settings.Settings(root=tmp_path, workspace=tmp_path)
    assert found.backend == "cpu"


def test_later_sources_win(tmp_path: Path) -> None:
    machine = {"HTTPS_PROXY": "http://machine:1"}
    assert settings.load(tmp_path, environ=machine).https_proxy == "http://machine:1"
    (tmp_path / settings.FILE_NAME).write_text('https_proxy = "http://file:1"\n')
    assert settings.load(tmp_path, environ=machine).https_proxy == "http://file:1"
    own = machine | {"PADDLE_STACKS_HTTPS_PROXY": "http://own:1"}
    assert settings.load(tmp_path, environ=own).https_proxy == "http://own:1"
    flags = {"https_proxy": "http://flag:1", "registry": None}
    assert settings.load(tmp_path, flags, environ=own).https_proxy == "http://flag:1"


def test_the_lower_case_proxy_variable_wins(tmp_path: Path) -> None:
    both = {"HTTP_PROXY": "http://upper", "http_proxy": "http://lower"}
    assert settings.load(tmp_path, environ=both).http_proxy == "http://lower"


def test_the_first_bundle_that_exists_is_taken(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.touch()
    environ = {"SSL_CERT_FILE": str(tmp_path / "gone.pem"), "PIP_CERT": str(bundle)}
    assert settings.load(tmp_path, environ=environ).ca_bundle == bundle


def test_an_empty_value_takes_a_setting_back(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.touch()
    environ = {"SSL_CERT_FILE": str(bundle), "PADDLE_STACKS_CA_BUNDLE": ""}
    environ |= {"PIP_INDEX_URL": "https://x", "PADDLE_STACKS_INDEX_URL": ""}
    environ |= {"PADDLE_STACKS_WORKSPACE": ""}
    found = settings.load(tmp_path, environ=environ)
    assert (found.ca_bundle, found.index_url, found.workspace) == (None, "", tmp_path)


def test_a_relative_path_in_the_file_starts_at_the_file(tmp_path: Path) -> None:
    (tmp_path / "token").touch()
    (tmp_path / settings.FILE_NAME).write_text('hub_token_file = "token"\n')
    assert settings.load(tmp_path, environ={}).hub_token_file == tmp_path / "token"


def test_a_relative_path_elsewhere_starts_where_the_person_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "token").touch()
    monkeypatch.chdir(tmp_path / "here")
    found = settings.load(tmp_path, {"hub_token_file": "token"}, environ={})
    assert found.hub_token_file == tmp_path / "here" / "token"


def test_what_may_hold_a_password_is_not_shown(tmp_path: Path) -> None:
    environ = {"PIP_INDEX_URL": "https://me:secret@host", "HTTPS_PROXY": "http://me:secret@host"}
    assert "secret" not in repr(settings.load(tmp_path, environ=environ))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://me:secret@proxy:3128", "http://***@proxy:3128"),
        ("http://token@host/simple", "http://***@host/simple"),
        ("http://host/a@b", "http://host/a@b"),
        ("host:3128", "host:3128"),
    ],
)
def test_without_password(url: str, shown: str) -> None:
    assert settings.without_password(url) == shown


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('backend = "cpu"\n\nregistri = "x"\n', ['unknown key "registri"', ":3", '"registry"?']),
        ("backend = 3\n", ['"backend" must be a string, not int', ":1"]),
        ("backend = \n", ["is not TOML", ":1"]),
        ('hub_token_file = "none"\n', ["names a file that does not exist", "hub_token_file"]),
        ('workspace = "none"\n', ["names a folder that does not exist"]),
        ('require_verified = "yes"\n', ['"require_verified" must be true or false, got "yes"']),
        ("require_verified = 1\n", ['"require_verified" must be a string, not int', ":1"]),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / settings.FILE_NAME).write_text(text)
    with pytest.raises(RequestError) as caught:
        settings.load(tmp_path, environ={})
    problem = caught.value.problems[0]
    message = f"{problem.what} {problem.where} {problem.remedy}"
    assert all(word in message for word in words), message


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / settings.FILE_NAME).write_text("backend = 3\nnonsense = 1\n")
    environ = {"PADDLE_STACKS_BACKENDS": "cpu", "PADDLE_STACKS_CA_BUNDLE": "/nowhere"}
    with pytest.raises(RequestError) as caught:
        settings.load(tmp_path, environ=environ)
    assert len(caught.value.problems) == 4
    assert 'did you mean "PADDLE_STACKS_BACKEND"?' in [p.remedy for p in caught.value.problems]


def test_the_switches_are_not_settings(tmp_path: Path) -> None:
    settings.load(tmp_path, environ={"PADDLE_STACKS_DEBUG": "1", "PADDLE_STACKS_EVENTS": "1"})


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / settings.FILE_NAME).write_bytes(b"\xff\xfe")
    with pytest.raises(RequestError, match="not UTF-8"):
        settings.load(tmp_path, environ={})


@pytest.mark.parametrize(
    ("text", "environ", "flag", "wanted"),
    [
        ("", {}, None, False),
        ("require_verified = true\n", {}, None, True),
        ('require_verified = "true"\n', {}, None, True),
        ("require_verified = true\n", {"PADDLE_STACKS_REQUIRE_VERIFIED": "false"}, None, False),
        ("require_verified = true\n", {"PADDLE_STACKS_REQUIRE_VERIFIED": ""}, None, False),
        ("", {"PADDLE_STACKS_REQUIRE_VERIFIED": "true"}, None, True),
        ("require_verified = false\n", {}, "true", True),
    ],
)
def test_a_setting_that_is_on_or_off(
    tmp_path: Path, text: str, environ: dict[str, str], flag: str | None, wanted: bool
) -> None:
    (tmp_path / settings.FILE_NAME).write_text(text)
    found = settings.load(tmp_path, {"require_verified": flag}, environ=environ)
    assert found.require_verified is wanted
