"""What a build is told, what it says, and how its steps are explained. Needs no engine."""

import base64
import json
import os
import shutil
from pathlib import Path

import pytest

from paddle_stacks import engine, locks, settings
from paddle_stacks.build import progress, reasons
from paddle_stacks.build.os_image import OsImage, default_reference
from paddle_stacks.build.variables import lock_hash, locked_version, secrets, variables
from paddle_stacks.errors import BuildError, RequestError
from paddle_stacks.plan.backend import load

ROOT = Path(__file__).parents[2]


def _step(name, *, digest="sha256:1", ran=True):
    times = (1.0, 2.0) if ran else (0.0, 0.0)
    return progress.Step(digest, name, cached=not ran, started=times[0], completed=times[1])


def test_documents_and_plain_lines_are_told_apart():
    text = '{\n  "vertexes": [\n    {"digest": "a"}\n  ]\n}\nERROR: no such target\n{\n}\n'
    found = list(progress.documents(text.splitlines(keepends=True)))
    assert found == [{"vertexes": [{"digest": "a"}]}, "ERROR: no such target", {}]


def test_steps_gather_times_logs_and_cache():
    steps = progress.Steps()
    name = "[train framework 2/3] RUN  --mount=type=bind,source=x\ttrue"
    start = {"digest": "a", "name": name, "started": "2026-01-02T03:04:05.5Z"}
    end = {**start, "completed": "2026-01-02T03:04:07.123456789Z"}
    assert steps.take({"vertexes": [start]}) == []
    log = base64.b64encode(b"hello\n").decode()
    done = steps.take({"vertexes": [end], "logs": [{"vertex": "a", "data": log}]})
    (step,) = done
    assert step.stage == "framework"
    assert step.instruction == "RUN --mount=type=bind,source=x true"
    assert step.seconds == pytest.approx(1.623456789, abs=1e-5)
    assert bytes(step.log) == b"hello\n"
    assert step.ran
    (cached,) = steps.take(
        {"vertexes": [{"digest": "b", "name": "[base 1/2] COPY", "cached": True}]}
    )
    assert not cached.ran


def test_a_step_that_was_named_but_not_needed_did_not_run():
    assert not progress.Step("a", "[base 1/3] RUN true").ran


def test_parents_are_the_from_lines():
    found = reasons.parents((ROOT / "Dockerfile").read_text())
    assert found["framework"] == "base"
    assert found["training"] == found["infer-cpu"] == "ops"
    assert found["training-cpu"] == found["training-dcu"] == "training"
    assert found["infer-dcu"] == "training-dcu"


def test_the_fingerprint_names_what_a_build_reads():
    found = reasons.fingerprint(ROOT, "cpu")
    for name in (
        "entrypoints/__main__.py",
        "paddle_stacks/jobs/catalog.py",
        "images/framework/requirements.cpu.lock",
        "images/steps/with-build-network",
    ):
        assert name in found
    assert not [name for name in found if "__pycache__" in name or name.startswith("tests/")]


@pytest.mark.parametrize(
    ("instruction", "changed", "reason"),
    [
        (
            "[code 1/5] COPY entrypoints /opt/x",
            "entrypoints/infer.py",
            "changed: entrypoints/infer.py",
        ),
        (
            "[base 1/2] RUN --mount=type=bind,source=images/steps/with-build-network,target=/mnt x",
            "images/steps/with-build-network",
            "changed: images/steps/with-build-network",
        ),
        ("[base 1/2] RUN true", "instruction 12ab", "the Dockerfile changed"),
        ("[base 1/2] RUN true", "BACKEND", "another backend"),
    ],
)
def test_a_step_is_explained_by_what_it_reads(instruction, changed, reason):
    found = reasons.reasons(
        [_step(instruction)], {changed: "old", "x": "y"}, {changed: "new", "x": "y"}
    )
    assert found == {"sha256:1": reason}


def test_a_step_is_explained_by_the_one_before_it():
    steps = [
        _step("[code 1/2] COPY entrypoints /opt/x", digest="1"),
        _step("[code 2/2] RUN compile", digest="2"),
        _step("[infer 1/1] COPY --from=code /opt /opt", digest="3"),
        _step("[base 1/1] RUN apt", digest="4", ran=False),
    ]
    found = reasons.reasons(steps, {"entrypoints/a.py": "1"}, {"entrypoints/a.py": "2"})
    assert found == {
        "1": "changed: entrypoints/a.py",
        "2": "an earlier step of its stage ran again",
        "3": "the stage code ran again",
    }


def test_the_first_build_and_a_pruned_cache_have_their_reasons():
    step = _step("[base 1/2] RUN true")
    assert reasons.reasons([step], {}, {"a": "1"}) == {"sha256:1": "first build here"}
    assert "pruned" in reasons.reasons([step], {"a": "1"}, {"a": "1"})["sha256:1"]


def test_a_memory_that_was_cut_off_is_no_memory(tmp_path):
    path = tmp_path / "last.json"
    assert reasons.load(path) == {}
    reasons.store(path, {"a": "1"})
    assert reasons.load(path) == {"a": "1"}
    path.write_text('{"a": ')
    assert reasons.load(path) == {}


def test_variables_say_what_the_locks_say():
    found = variables(settings.load(ROOT, environ={}), OsImage("debian:x", "sha256:5", "registry"))
    assert found["PADDLE_VERSION"] == "3.0.0b2"
    assert found["OS_IMAGE"] == "debian:x"
    assert found["OS_DIGEST"] == "sha256:5"
    assert found["LOCK_HASH"] == lock_hash(ROOT, load("cpu", ROOT))
    assert "***" not in json.dumps(found)


@pytest.mark.parametrize("backend", ["cpu", "dcu"])
def test_the_label_changes_with_every_lock_of_the_images(tmp_path, backend):
    (tmp_path / "images").mkdir()
    shutil.copytree(ROOT / "configs" / "backends", tmp_path / "configs" / "backends")
    for name in ("framework", "train", "infer"):
        shutil.copytree(ROOT / "images" / name, tmp_path / "images" / name)
    loaded = load(backend, tmp_path)
    before = lock_hash(tmp_path, loaded)
    for name in ("framework", "train", "infer"):
        path = tmp_path / "images" / name / f"requirements.{backend}.lock"
        text = path.read_text()
        path.write_text(text + "x==1\n")
        assert lock_hash(tmp_path, loaded) != before, name
        path.write_text(text)


def test_a_missing_lock_says_how_to_make_it(tmp_path):
    with pytest.raises(BuildError) as caught:
        locked_version(tmp_path, "cpu", "paddlepaddle")
    assert "./inv lock" in caught.value.problems[0].remedy


def test_secrets_are_files_that_only_the_caller_reads(tmp_path):
    bundle = tmp_path / "ca.pem"
    bundle.write_text("x")
    environ = {"https_proxy": "http://u:secret@proxy:1", "SSL_CERT_FILE": str(bundle)}
    with secrets(settings.load(ROOT, environ=environ)) as files:
        network = Path(files["NETWORK"])
        assert network.read_text() == "https_proxy=http://u:secret@proxy:1\n"
        assert network.stat().st_mode & 0o077 == 0
        assert files["CA_BUNDLE"] == str(bundle)
    assert not network.exists()


def test_no_secrets_are_empty_files():
    with secrets(settings.load(ROOT, environ={})) as files:
        assert Path(files["NETWORK"]).read_text() == ""
        assert files["CA_BUNDLE"] == os.devnull


def test_the_os_image_is_the_dockerfiles(tmp_path):
    assert default_reference(ROOT / "Dockerfile").startswith("debian:bookworm-")
    (tmp_path / "Dockerfile").write_text("FROM x\n")
    with pytest.raises(BuildError):
        default_reference(tmp_path / "Dockerfile")


def test_lock_changes_are_told():
    before = locks.versions("a==1 \\\n    --hash=sha256:0\nb==2\nc==3 ; python_version < '3.11'\n")
    assert before == {"a": "1", "b": "2", "c": "3"}
    assert locks.changes(before, {"a": "1", "b": "3", "d": "4"}) == [
        "b 2 -> 3",
        "c 3 was removed",
        "d 4 is new",
    ]


def test_a_backend_without_locks_is_refused(tmp_path):
    with pytest.raises(RequestError):
        locks.relock(tmp_path, "tpu")


@pytest.fixture
def compiled(monkeypatch):
    """The command lines that uv gets, without resolving anything."""
    lines = []

    def compile_lock(root, path, arguments):
        lines.append((path.name, path.is_file(), arguments))
        path.write_text("jinja2==3.1.6\n")

    monkeypatch.setattr(locks, "_compile", compile_lock)
    return lines


def _checkout(folder):
    for name in ("base", "framework", "infer", "train"):
        (folder / "images" / name).mkdir(parents=True)
    for name in ("framework", "infer", "train"):
        for backend in ("cpu", "dcu"):
            path = folder / "images" / name / f"requirements.{backend}.lock"
            path.write_text("jinja2==3.1.4\n")
    return folder


def test_one_package_is_upgraded_and_the_rest_stays(tmp_path, compiled):
    changed = locks.relock(_checkout(tmp_path), "dcu", ["jinja2"])
    assert all(arguments[:2] == ["--upgrade-package", "jinja2"] for _, _, arguments in compiled)
    assert "images/train/requirements.dcu.lock: jinja2 3.1.4 -> 3.1.6" in changed
    compiled.clear()
    locks.relock(tmp_path, "cpu", ["jinja2"])
    kept = [name for name, is_there, _ in compiled if is_there]
    assert "requirements.cpu.lock" in kept, "uv keeps the versions that are locked"
    compiled.clear()
    locks.relock(tmp_path, "cpu")
    assert not any(is_there for _, is_there, _ in compiled)


def test_a_package_that_no_lock_has_is_refused(tmp_path, compiled):
    with pytest.raises(RequestError) as caught:
        locks.relock(_checkout(tmp_path), "cpu", ["jinja"])
    assert 'did you mean "jinja2"?' in caught.value.problems[0].remedy
    assert compiled == []


def test_what_builds_packages_is_locked_with_hashes():
    folder = ROOT / "images" / "framework"
    text = (folder / "build-constraints.txt").read_text()
    asked = locks.versions((folder / "build-constraints.in").read_text())
    assert locks.versions(text) == asked, "./inv lock"
    for line in text.splitlines():
        if locks.PIN.match(line):
            assert line.endswith(" \\"), f"{line} has no hash"


def test_an_image_has_its_parents_versions():
    framework, train = (
        locks.versions((ROOT / f"images/{name}/requirements.cpu.lock").read_text())
        for name in ("framework", "train")
    )
    assert framework.items() <= train.items()


@pytest.mark.parametrize(
    ("distribution", "package"),
    [
        (engine.Distribution("debian", "12"), "docker-compose"),
        (engine.Distribution("debian", "13"), "docker-compose"),
        (engine.Distribution("ubuntu", "24.04"), "docker-compose-v2"),
    ],
)
def test_known_distributions_have_packages(distribution, package):
    assert package in engine.packages_for(distribution)


def test_other_distributions_have_none():
    assert engine.packages_for(engine.Distribution("fedora", "41")) == ()
