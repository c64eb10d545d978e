"""Bundles: made, cut at any moment, carried, damaged, split, signed and loaded. No engine."""

import dataclasses
import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from paddle_stacks.bundle import check, contents, create, downloads
from paddle_stacks.bundle import load as loading
from paddle_stacks.errors import BuildError, MachineError, RequestError
from paddle_stacks.jobs import files
from paddle_stacks.revision import commit_seconds, revision
from tests.support.bundles import KILL, LAYERS, PYTHON, Site, killed_at

# Before a site puts something else in its place.
PIP_DOWNLOAD = downloads._pip_download
MODEL = "models/tiny/model.safetensors"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


def verify(folder: Path) -> contents.Manifest:
    return check.verify(folder, lambda text: None)


def test_what_is_made_here_is_there_on_the_other_side(site: Site) -> None:
    site.create()
    done = site.load()
    assert done.returncode == 0, done.stderr
    for name in ("inv", "docs/bundle.md", "requirements.lock"):
        assert (site.to / name).read_bytes() == (site.project / name).read_bytes()
    assert os.access(site.to / "inv", os.X_OK)
    for name in ("config.json", "model.safetensors", "deep/tokenizer.json"):
        there, here = (folder / "models" / "tiny" / name for folder in (site.to, site.project))
        assert there.read_bytes() == here.read_bytes()
    assert (site.to / "paddle-stacks.toml").read_text().endswith('packages = ".bundle/packages"\n')
    assert (site.to / ".bundle" / "packages" / "sources.list").is_file()
    assert (site.to / ".bundle" / "environment" / "pip-1-py3-none-any.whl").is_file()
    assert (site.to / "calls").read_text() == "--list\nverify --backend cpu\n"
    tags = json.loads((site.engine / "tags.json").read_text())
    assert tags == {image.reference: image.id for image in site.wanted}
    # The project there knows what it is, without git.
    assert revision(site.to) == revision(site.project)
    assert commit_seconds(site.to) == commit_seconds(site.project) > 0


@pytest.mark.slow
def test_a_layer_that_images_share_is_stored_and_sent_once(site: Site) -> None:
    site.create()
    blobs = list((site.bundle / "images" / "blobs" / "sha256").iterdir())
    assert sum(path.stat().st_size == 40_000 for path in blobs) == len(LAYERS)
    assert site.load("--no-verify").returncode == 0
    sent = (site.engine / "loads").read_text().split()
    assert len(sent) == len(set(sent)) == len(LAYERS)
    # And what is in the engine is not sent again.
    assert site.load("--no-verify").returncode == 0
    assert (site.engine / "loads").read_text().split() == sent


def test_plain_sha256sum_checks_it_too(site: Site) -> None:
    site.create(split=10**6)
    command = ["sha256sum", "--check", "--quiet", "--strict", "SHA256SUMS"]
    subprocess.run(command, cwd=site.bundle, check=True)
    listed = (site.bundle / "SHA256SUMS").read_text().splitlines()
    files = [path for path in site.bundle.rglob("*") if path.is_file()]
    assert len(listed) == len(files) - 1


def test_large_files_are_in_parts_and_load_as_they_are(site: Site) -> None:
    site.create(split=10**6)
    sizes = {p.name: p.stat().st_size for p in site.bundle.rglob("*") if p.is_file()}
    assert max(sizes.values()) == 10**6
    parts = [f"model.safetensors.part00{number}" for number in (1, 2, 3)]
    assert [sizes.get(name) for name in parts] == [10**6, 10**6, 560_000]
    assert "model.safetensors" not in sizes
    assert site.load().returncode == 0
    assert (site.to / MODEL).read_bytes() == (site.project / MODEL).read_bytes()


@pytest.mark.parametrize("split", [0, 10**6, 2 * 10**6])
def test_made_again_it_copies_and_asks_for_nothing_twice(
    site: Site, split: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.create(split=10**6)
    monkeypatch.setattr(downloads, "_pip_download", None)
    (site.engine / "archive.tar").unlink()
    before = {p.relative_to(site.bundle) for p in site.bundle.rglob("*")}
    site.create(split=split)
    after = {p.relative_to(site.bundle) for p in site.bundle.rglob("*")}
    assert (before == after) == (split == 10**6)
    verify(site.bundle)


def test_what_is_not_wanted_any_more_goes(site: Site) -> None:
    site.create()
    site.create(models=(), rebuild=False)
    manifest = verify(site.bundle)
    assert manifest.models == () and not manifest.rebuild
    assert not (site.bundle / "models").exists() and not (site.bundle / "packages").exists()


def test_a_model_that_changed_is_copied_again(site: Site) -> None:
    site.create()
    old = site.bundle.rename(site.home / "old")
    shutil.copytree(old, site.bundle)
    (site.project / MODEL).write_bytes(b"new")
    site.create()
    assert (site.bundle / MODEL).read_bytes() == b"new"
    verify(old)


def _finished_run(site: Site, name: str) -> Path:
    """Make a run of a model that ``tiny`` has become."""
    made = site.project / "runs" / name / "model"
    shutil.copytree(site.project / "models" / "tiny", made)
    (made / "model.safetensors").write_bytes(name.encode())
    return made


def test_a_runs_model_and_a_link_keep_the_names_that_they_were_called_by(site: Site) -> None:
    for name in ("a", "b"):
        _finished_run(site, name)
    link = site.project / "models" / "link"
    link.symlink_to(site.project / "models" / "tiny")
    site.create(models=("runs/a", "runs/b", "link", "tiny"), allow_dirty=True)
    assert verify(site.bundle).models == ("a", "b", "link", "tiny")
    for name in ("a", "b"):
        assert (site.bundle / "models" / name / "model.safetensors").read_text() == name
    assert not (site.bundle / "models" / "link").is_symlink()


def test_two_models_of_one_name_are_refused(site: Site) -> None:
    _finished_run(site, "tiny")
    with pytest.raises(RequestError, match="models/tiny would be both this folder and") as caught:
        site.create(models=("tiny", "runs/tiny"), allow_dirty=True)
    assert caught.value.problems[0].where.endswith("runs/tiny/model")
    assert not site.bundle.exists()


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _blob(bundle: Path) -> Path:
    return next(p for p in (bundle / "images/blobs/sha256").iterdir() if p.stat().st_size == 40_000)


def _resum(bundle: Path) -> None:
    """Make the sums fit again, as somebody would who has no key but knows what he does."""
    lines = (bundle / "SHA256SUMS").read_text()
    digest = files.digest_of((bundle / "manifest.json").open("rb"))[1]
    fitting = re.sub(r"^\w+(?=  manifest)", digest, lines, flags=re.MULTILINE)
    (bundle / "SHA256SUMS").write_text(fitting)


def _rewrite(change):
    def apply(bundle: Path) -> None:
        path = bundle / "manifest.json"
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))
        _resum(bundle)

    return apply


def _rename_first(name):
    def change(document):
        old = document["files"][0]["path"]
        document["files"][0]["path"] = name
        return old

    def apply(bundle: Path) -> None:
        old = []
        _rewrite(lambda document: old.append(change(document)))(bundle)
        sums = bundle / "SHA256SUMS"
        sums.write_text(sums.read_text().replace(f"  {old[0]}\n", f"  {name}\n"))

    return apply


def _link_out(bundle: Path) -> None:
    outside = bundle.parent / "outside"
    (bundle / "models" / "tiny").rename(outside)
    (bundle / "models" / "tiny").symlink_to(outside)


DAMAGE = {
    "a bit": (lambda b: _flip(b / MODEL), f"{MODEL} is damaged"),
    "a bit of a layer": (lambda b: _flip(_blob(b)), "images/blobs/sha256/.* is damaged"),
    "cut": (
        lambda b: os.truncate(b / MODEL, 100),
        f"{MODEL} is truncated: expected 2560000 bytes, got 100",
    ),
    "empty": (
        lambda b: os.truncate(b / MODEL, 0),
        f"{MODEL} is truncated: expected 2560000 bytes, got 0",
    ),
    "longer": (lambda b: (b / MODEL).open("a").write("x"), f"{MODEL} is too long"),
    "gone": (lambda b: (b / MODEL).unlink(), f"{MODEL} is missing"),
    "a folder gone": (lambda b: shutil.rmtree(b / "models"), "models/tiny/config.json is missing"),
    "a folder instead": (
        lambda b: ((b / MODEL).unlink(), (b / MODEL).mkdir()),
        f"{MODEL} is not a file",
    ),
    "a pipe instead": (
        lambda b: ((b / MODEL).unlink(), os.mkfifo(b / MODEL)),
        f"{MODEL} is not a file",
    ),
    "a link instead": (
        lambda b: ((b / MODEL).unlink(), (b / MODEL).symlink_to("/etc/passwd")),
        f"{MODEL} leads out of the bundle",
    ),
    "a folder that is a link": (_link_out, "models/tiny/config.json leads out of the bundle"),
    "one more": (lambda b: (b / "models" / "extra.bin").touch(), "models/extra.bin is not part of"),
    "one more, hidden": (lambda b: (b / ".more").touch(), r"\.more is not part of the bundle"),
    "the manifest": (lambda b: _flip(b / "manifest.json"), "manifest.json is damaged"),
    "no manifest": (lambda b: (b / "manifest.json").unlink(), "manifest.json is missing"),
    "no sums": (lambda b: (b / "SHA256SUMS").unlink(), "SHA256SUMS"),
    "sums cut": (lambda b: os.truncate(b / "SHA256SUMS", 200), "not a line of sha256sum|not list"),
    "sums of another": (lambda b: (b / "SHA256SUMS").write_text("ab" * 32 + "  x\n"), "not list"),
    "sums that are no text": (lambda b: (b / "SHA256SUMS").write_bytes(b"\xff" * 99), "be read"),
    "no README": (lambda b: (b / "README.md").unlink(), "README.md is missing"),
    "the program": (lambda b: _flip(b / "bundle.pyz"), "bundle.pyz is damaged"),
    "a name that leaves": (_rename_first("../../etc/cron.d/x"), "is not allowed as a path"),
    "an absolute name": (_rename_first("/etc/cron.d/x"), "is not allowed as a path"),
    "a name with a line in it": (_rename_first("a\nb"), "not a line of|is not allowed as a path"),
    "a name with a backslash": (_rename_first("a\\..\\b"), "is not allowed as a path"),
    "no JSON": (
        lambda b: ((b / "manifest.json").write_text("{"), _resum(b)),
        "not a bundle's manifest",
    ),
    "deep JSON": (
        lambda b: ((b / "manifest.json").write_text("[" * 100_000), _resum(b)),
        "not a bundle's manifest",
    ),
    "another format": (_rewrite(lambda d: d.update(format=2)), "has the format 2"),
    "a list for a text": (_rewrite(lambda d: d.update(backend=[])), "not a bundle's manifest"),
    "a negative size": (
        _rewrite(lambda d: d["files"][0].update(size=-1)),
        "not a bundle's manifest",
    ),
    "an option for a tag": (
        _rewrite(lambda d: d["images"][0].update(tags=["--all"])),
        "not the name of an image",
    ),
    "a file twice": (_rewrite(lambda d: d["files"].append(d["files"][0])), "listed twice"),
    "a sum of its own": (
        _rewrite(lambda d: d["files"][0].update(sha256="0" * 64)),
        "differ in",
    ),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_bundle_is_refused_by_the_name_of_what_is_damaged(site: Site, how: str) -> None:
    site.create()
    damage, expected = DAMAGE[how]
    damage(site.bundle)
    with pytest.raises(RequestError) as caught:
        verify(site.bundle)
    assert re.search(expected, str(caught.value)), caught.value
    if (site.bundle / "bundle.pyz").is_file() and how != "the program":
        done = site.load()
        assert done.returncode == 2, done.stderr
        assert re.search(expected, done.stderr), done.stderr
        assert not (site.engine / "loads").exists() and not (site.to / "inv").exists()


def test_all_faults_are_told_at_once(site: Site) -> None:
    site.create(split=10**6)
    (site.bundle / "models/tiny/model.safetensors.part002").unlink()
    _flip(site.bundle / "models/tiny/config.json")
    (site.bundle / "new").touch()
    done = site.program("verify")
    assert done.returncode == 2
    for expected in (
        "part002 is missing",
        "config.json is damaged",
        "new is not part of the bundle",
    ):
        assert expected in done.stderr


@pytest.mark.slow
def test_a_load_that_is_killed_before_any_rename_goes_on(site: Site) -> None:
    site.create(split=10**6)
    assert site.load().returncode == 0
    whole = site.loaded()
    shutil.rmtree(site.to)
    runner = f"{KILL}\nimport runpy, sys\nsys.argv = sys.argv[1:]\n"
    runner += "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    command = [sys.executable, "-I", "-c", runner, site.bundle / "bundle.pyz"]
    command += ["load", "--to", site.to]
    kills = 0
    # Every second of some 24: those between are the same for another file.
    for moment in range(1, 1000, 2):
        shutil.rmtree(site.to, ignore_errors=True)
        shutil.rmtree(site.engine / "images")
        (site.engine / "tags.json").unlink(missing_ok=True)
        killed = subprocess.run(
            command, env={**os.environ, "KILL_AT": str(moment)}, capture_output=True
        )
        if killed.returncode == 0:
            break
        assert killed.returncode == -9, killed.stderr
        kills += 1
        if (site.to / "models" / "tiny").exists():
            assert (site.to / MODEL).read_bytes() == (site.project / MODEL).read_bytes()
        done = site.load()
        assert done.returncode == 0, (moment, done.stderr)
        assert site.loaded() == whole, moment
    assert kills > 8


@pytest.mark.slow
def test_a_bundle_that_is_killed_while_it_is_made_goes_on(site: Site) -> None:
    kills = 0
    for moment in range(1, 1000):
        shutil.rmtree(site.bundle, ignore_errors=True)
        if not killed_at(moment, lambda: site.create(split=10**6)):
            break
        kills += 1
        # Nothing half made has its name.
        assert not site.bundle.exists() or verify(site.bundle)
        site.create(split=10**6)
        verify(site.bundle)
        assert [path.name for path in site.home.glob(".bundle*")] == []
    assert kills > 15


def test_a_bundle_that_is_killed_while_it_is_made_anew_goes_on(site: Site) -> None:
    site.create()
    (site.project / MODEL).write_bytes(b"new")
    for moment in range(1, 1000):
        site.create(models=())
        if not killed_at(moment, site.create):
            break
        assert not site.bundle.exists() or verify(site.bundle)
        site.create()
        verify(site.bundle)
        assert [path.name for path in site.home.glob(".bundle*")] == []
    assert moment > 5


def test_a_step_that_failed_is_done_the_next_time(site: Site) -> None:
    site.create()
    (site.engine / "full").touch()
    done = site.load()
    assert (
        done.returncode == 3 and "the engine has no space for paddle-stacks/base:cpu" in done.stderr
    )
    (site.engine / "full").unlink()
    (site.to / "fail-verify").touch()
    done = site.load()
    assert done.returncode == 5 and "./inv verify --backend cpu exited with 1" in done.stderr
    (site.to / "fail-verify").unlink()
    assert site.load().returncode == 0


def test_an_interrupted_check_does_not_read_again_what_did_not_change(site: Site) -> None:
    site.create()
    known: dict[str, check.Stamp] = {}
    check.verify(site.bundle, lambda text: None, known, known.__setitem__)
    again: list[str] = []
    _flip(site.bundle / MODEL)
    with pytest.raises(RequestError, match="is damaged"):
        check.verify(site.bundle, lambda text: None, known, lambda path, stamp: again.append(path))
    assert again == []


def _changed(path: Path) -> None:
    """Change a file behind the back of its size and time."""
    before = path.stat()
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("of", ["project", "models", "environment", "images"])
def test_what_changes_after_it_was_verified_is_not_unpacked(
    site: Site, of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Size and time stay, and the check before knows the file: its content counts once more."""
    site.create()
    verified = check.verify

    def then_change(folder: Path, *rest):
        manifest = verified(folder, *rest)
        files = [file for file in manifest.files if file.path.startswith(of)]
        _changed(folder / max(files, key=lambda file: file.size).stored[0].path)
        return manifest

    monkeypatch.setattr(check, "verify", then_change)
    with pytest.raises(RequestError) as caught:
        loading.load(site.bundle, site.to, lambda text: None, verify=False)
    assert "changed since it was verified" in caught.value.problems[0].what
    if of == "project":
        assert not (site.to / "inv").exists(), "nothing of it was laid down"


def test_what_is_there_is_not_written_over(site: Site) -> None:
    site.create()
    site.to.mkdir()
    (site.to / "thesis.txt").write_text("mine")
    done = site.load()
    assert done.returncode == 2 and "the folder has something else" in done.stderr
    (site.to / "thesis.txt").unlink()
    (site.to / "models" / "tiny").mkdir(parents=True)
    (site.to / "models" / "tiny" / "config.json").write_text("{'mine': 1}")
    (site.to / ".git_archival.txt").write_text(f"node: {revision(site.project)}\n")
    done = site.load()
    assert done.returncode == 2 and "a different models/tiny exists" in done.stderr
    assert (site.to / "models" / "tiny" / "config.json").read_text() == "{'mine': 1}"


def test_settings_of_somebody_else_are_kept(site: Site) -> None:
    site.create()
    assert site.load("--no-verify").returncode == 0
    mine = 'registry = "registry.example"\n'
    (site.to / "paddle-stacks.toml").write_text(mine)
    done = site.load("--no-verify")
    assert done.returncode == 0 and 'packages = ".bundle/packages"' in done.stderr
    assert (site.to / "paddle-stacks.toml").read_text() == mine


def test_a_checkout_of_the_same_revision_takes_the_rest(site: Site) -> None:
    site.create()
    subprocess.run(["git", "clone", "-q", site.project, site.to], check=True)
    assert site.load("--no-verify").returncode == 0
    assert (site.to / MODEL).is_file() and (site.to / ".git").is_dir()


def test_a_python_that_the_bundle_has_no_packages_for_is_told(site: Site) -> None:
    site.create(pythons=tuple(set(downloads.PYTHONS) - {PYTHON})[:1])
    done = site.load()
    assert done.returncode == 3 and f"not for {PYTHON}" in done.stderr
    assert not (site.engine / "loads").exists()


def test_without_an_engine_nothing_begins(site: Site) -> None:
    site.create()
    done = site.program("load", "--to", site.to, PATH=str(site.home))
    assert done.returncode == 3 and "the docker command is not installed" in done.stderr
    assert not site.to.exists()


def _dirty(site: Site) -> None:
    (site.project / "docs" / "bundle.md").write_text("edited")


def _output_taken(site: Site) -> None:
    site.bundle.mkdir()
    (site.bundle / "thesis.txt").touch()


REFUSED = {
    "an edited file": (_dirty, {}, "files differ from the commit"),
    "a file that git has not": (
        lambda site: (site.project / "new").touch(),
        {},
        "files differ from the commit",
    ),
    "no such model": (None, {"models": ("smoll",)}, 'no model "smoll"'),
    "no such data": (None, {"data": ("none",)}, 'no data named "none"'),
    "no such Python": (None, {"pythons": ("3.9",)}, "no wheels for Python 3.9"),
    "no such key": (None, {"key": Path("/nowhere/key")}, "the key does not exist"),
    "something else there": (_output_taken, {}, "the folder exists and is not a bundle"),
}


@pytest.mark.parametrize("how", REFUSED)
def test_what_cannot_be_made_is_said_before_it_begins(site: Site, how: str) -> None:
    prepare, changes, expected = REFUSED[how]
    if prepare:
        prepare(site)
    with pytest.raises(RequestError, match=expected):
        site.create(**changes)
    assert site.said == [] and not list(site.home.glob(".bundle*"))


def test_all_that_is_wrong_with_an_order_is_said_at_once(site: Site) -> None:
    _dirty(site)
    with pytest.raises(RequestError) as caught:
        site.create(models=("x", "y"), pythons=("2.7",))
    assert len(caught.value.problems) == 4


def test_edited_files_are_carried_as_they_are_when_asked_for(site: Site) -> None:
    _dirty(site)
    site.create(allow_dirty=True)
    manifest = verify(site.bundle)
    assert manifest.revision.endswith("-dirty")
    assert site.load("--no-verify").returncode == 0
    assert (site.to / "docs" / "bundle.md").read_text() == "edited"
    assert revision(site.to) == manifest.revision


def test_no_room_is_said_before_anything_is_copied(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(site.home)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(MachineError, match="not enough space"):
        site.create()
    assert site.said == []


def test_an_index_that_is_out_of_reach_is_told_of_with_the_way_to_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "_pip_download", PIP_DOWNLOAD)
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    site.settings = dataclasses.replace(site.settings, index_url="http://127.0.0.1:9/simple")
    with pytest.raises(BuildError, match="cannot be downloaded") as caught:
        site.create()
    assert "index_url" in caught.value.problems[0].remedy
    assert not site.bundle.exists()


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs openssh-client")
def test_a_signature_is_that_of_a_key_that_is_trusted(site: Site) -> None:
    for name in ("ours", "other"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", site.home / name]
        subprocess.run(command, check=True)
        public = (site.home / f"{name}.pub").read_text()
        (site.home / f"{name}.signers").write_text(f"{name}@example.org {public}")
    trusted = ("--allowed-signers", site.home / "ours.signers")
    site.create()
    done = site.program("verify", *trusted)
    assert done.returncode == 2 and "is not signed" in done.stderr
    site.create(key=site.home / "ours")
    done = site.program("verify", *trusted)
    assert done.returncode == 0 and "signed by ours@example.org" in done.stderr
    done = site.program("verify", "--allowed-signers", site.home / "other.signers")
    assert done.returncode == 2 and "not signed by an allowed key" in done.stderr
    assert site.load("--no-verify", *map(str, trusted)).returncode == 0
    (site.bundle / "models" / "tiny" / "config.json").write_text("[]")
    lines = (site.bundle / "SHA256SUMS").read_text().splitlines(keepends=True)
    (site.bundle / "SHA256SUMS").write_text("".join(lines[1:]))
    done = site.program("verify", *trusted)
    assert done.returncode == 2 and "the signature is invalid" in done.stderr


@pytest.mark.parametrize(
    ("text", "size"),
    [("4G", 4 * 10**9), ("4GB", 4 * 10**9), ("700M", 700 * 10**6), ("1000000", 10**6)],
)
def test_sizes(text: str, size: int) -> None:
    assert create.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "4", "999K", "-4G", "4 G B", "4.5G", "G", "0G"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="not a size"):
        create.parse_size(text)


def test_a_locks_conditions_are_those_of_the_python_it_is_carried_for() -> None:
    lock = (Path(__file__).parents[2] / "requirements.lock").read_text()
    for python, has_tomli in (("3.10.0", True), ("3.10.99", True), ("3.11.0", False)):
        entries = downloads.lock_entries(lock, python)
        names = [entry.partition("==")[0] for entry in entries]
        assert len(names) == len(set(names)) > 50
        assert ("tomli" in names) is has_tomli
    (only,) = downloads.lock_entries(lock, "3.11.0", only="invoke")
    assert re.fullmatch(r"invoke==\S+ \\\n(    --hash=sha256:\w{64}( \\)?\n)+", only)


def test_all_of_a_series_of_pythons_can_make_the_environment(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = "a==1 ; python_full_version < '{0}.5' \\\n    --hash=sha256:00\n"
    lock += "a==2 ; python_full_version >= '{0}.5' \\\n    --hash=sha256:00\n"
    (site.project / "requirements.lock").write_text(lock.format(PYTHON))
    site.create(allow_dirty=True)
    carried = {path.name for path in (site.bundle / "environment").glob("a-*")}
    assert carried == {"a-1-py3-none-any.whl", "a-2-py3-none-any.whl"}


def test_the_program_needs_nothing_but_the_standard_library(site: Site) -> None:
    site.create()
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import paddle_stacks.bundle.program; "
        "print(*{n.partition('.')[0] for n in sys.modules})"
    )
    command = [sys.executable, "-I", "-S", "-c", code, site.bundle / "bundle.pyz"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    ours = {"paddle_stacks"}
    assert set(done.stdout.split()) - set(sys.stdlib_module_names) - {"__main__"} == ours


def test_a_disk_that_is_full_is_told_with_what_to_do(tmp_path: Path) -> None:
    with (
        pytest.raises(MachineError, match="no space left on the device") as caught,
        contents.disk_full_as_error(tmp_path),
    ):
        raise OSError(errno.ENOSPC, "No space left on device", "/x")
    assert "it continues from here" in caught.value.problems[0].remedy
    with pytest.raises(PermissionError), contents.disk_full_as_error(tmp_path):
        raise PermissionError(errno.EACCES, "no", "/x")
