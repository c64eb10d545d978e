"""From a folder to a fine-tuned model where there is no network, by the words of the page.

The blocks of docs/bundle.md that name this file are run as they stand, the first here and
the others on a closed machine (offline_host.py), whose engine has nothing but what they load.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.doc_pages import ROOT, blocks
from tests.support.offline_host import Machine, closed_machine

THIS = "tests/bundle/test_closed.py"
PAGE = ROOT / "docs" / "bundle.md"
DISK = "/media/disk/stack"  # where the page has the bundle
MODEL = "smollm2-135m-instruct"
SECONDS = 300
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="an engine of its own takes root")

MAKE, LOAD, USE, BUILD = (block for block in blocks(PAGE) if THIS in block.runs)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a person on the other side, with a configuration and data of their own."""
    folder = tmp_path_factory.mktemp("home")
    config = json.loads((ROOT / "configs" / "jobs" / "cpu" / "finetune-lora.json").read_text())
    # The demo's own data and settings; five steps for its three hundred.
    config |= {"max_steps": 5, "evaluation_strategy": "no", "save_strategy": "no"}
    config |= {"do_eval": False}
    del config["output_dir"], config["num_train_epochs"]
    (folder / "my.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle that the page makes, with files of at most 700 MB."""
    folder = tmp_path_factory.mktemp("disk") / "stack"
    words = " && ".join(command.text for command in MAKE.commands).replace(DISK, str(folder))
    # What this checkout has not committed is no reason not to try it.
    done = subprocess.run(
        ["bash", "-ec", f"{words} --split 700M --allow-dirty"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return folder


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    with closed_machine() as found:
        yield found


def follow(machine: Machine, home: Path, text: str) -> str:
    """Do on the closed machine what a block says, as one goes on in a shell; return its words."""
    shell = ["env", f"HOME={home}", "bash", "-ec", f"cd ~\n{text}"]
    done = machine.attempt(*shell)
    assert done.returncode == 0, f"{text}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def loaded(machine: Machine, bundle: Path, home: Path) -> Path:
    """The project, loaded by the page's words after a first attempt that was killed."""
    load, *_ = (command.text.replace(DISK, str(bundle)) for command in LOAD.commands)
    shell = ["env", f"HOME={home}", "bash", "-c", f"cd ~; exec {load}"]
    first = subprocess.Popen(
        machine.command(*shell), env=machine.environment, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + SECONDS
    while machine.attempt("docker", "image", "inspect", "paddle-stacks/base:cpu").returncode:
        assert first.poll() is None and time.monotonic() < deadline, first.communicate()[1]
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    # Its `docker load`, if there was one, has lost whom it listened to.
    said = follow(machine, home, LOAD.text.replace(DISK, str(bundle)).replace("$ ", ""))
    assert "image paddle-stacks/base:cpu: already loaded" in said
    (home / "my.json").rename(home / "paddle-stacks" / "my.json")
    return home / "paddle-stacks"


def test_the_machine_is_closed(machine: Machine) -> None:
    """The same connections that are made from here are not made from there."""
    bridge = subprocess.run(
        ["docker", "network", "inspect", "--format={{(index .IPAM.Config 0).Gateway}}", "bridge"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    dial = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)"
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = str(server.getsockname()[1])
        for address in ("127.0.0.1", bridge):
            words = [sys.executable, "-c", dial, address, port]
            subprocess.run(words, check=True)
            refused = machine.attempt(*words)
            assert refused.returncode != 0, address
            assert re.search("refused|unreachable", refused.stderr), refused.stderr
    # No interface but the engine's and those of any new namespace, and no route but to them.
    new = ["unshare", "--net", "cat", "/proc/net/dev"]
    fresh = subprocess.run(new, capture_output=True, text=True, check=True).stdout
    own = {"docker0", *re.findall(r"^ *(\w+):", fresh, re.MULTILINE)}
    interfaces = re.findall(r"^ *(\w+):", machine.run("cat", "/proc/net/dev").stdout, re.MULTILINE)
    assert {name for name in interfaces if not name.startswith("veth")} == own
    routes = machine.run("cat", "/proc/net/route").stdout.splitlines()[1:]
    assert all(line.split()[0] == "docker0" and line.split()[2] == "00000000" for line in routes)


def test_the_images_there_are_the_images_here(machine: Machine, loaded: Path) -> None:
    def ids(command: list[str], environment: dict[str, str]) -> dict[str, str]:
        words = ["docker", "images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"]
        done = subprocess.run([*command, *words], env=environment, capture_output=True, text=True)
        found = dict(line.split() for line in done.stdout.splitlines())
        return {name: found[name] for name in found if re.search(r"/(\w+:cpu|os:\w+)$", name)}

    there = ids(machine.command(), machine.environment)
    here = ids([], dict(os.environ))
    assert {name.rpartition(":")[0] for name in there} >= {
        f"paddle-stacks/{name}" for name in ("base", "framework", "train", "infer")
    }
    assert there == {name: here[name] for name in there}


def test_a_model_is_fine_tuned_and_answers(machine: Machine, loaded: Path, home: Path) -> None:
    follow(machine, home, USE.text.replace("$ ", ""))
    result = json.loads((loaded / "runs" / "mine" / "result.json").read_text())
    assert result["steps"] == 5


def test_the_demo_teaches_a_model_there(machine: Machine, loaded: Path) -> None:
    """The README's first command; its own goal is four correct answers of five."""
    said = machine.run("./inv", "demo", cwd=loaded).stdout
    found = json.loads((loaded / "runs" / "demo" / "summary.json").read_text())
    assert found["exact_match"]["before"] < 0.1 < 0.8 <= found["exact_match"]["after"]
    assert "right answers" in said
    assert (loaded / "runs" / "demo" / "loss.png").stat().st_size > 10_000


def test_a_python_without_pip_and_venv_will_do(machine: Machine, loaded: Path) -> None:
    """Debian's python3 alone, as the image base has it."""
    copy = loaded.with_name("again")
    shutil.copytree(loaded, copy, ignore=shutil.ignore_patterns(".venv", "models", "runs"))
    mounted = ["docker", "run", "--rm", "--network=none", f"--volume={copy}:/stack"]
    image = ["--workdir=/stack", "--entrypoint=sh", "paddle-stacks/base:cpu", "-c"]
    script = "! python3 -c 'import ensurepip' 2>/dev/null && ./inv --list"
    said = machine.run(*mounted, *image, script).stdout
    assert "bundle.load" in said


def test_the_images_are_built_again_there(machine: Machine, loaded: Path, home: Path) -> None:
    # The same layers would have the same id; only the tag says that it was built again.
    about = ["docker", "inspect", "--format={{.Id}} {{.Metadata.LastTagTime}}"]
    before = machine.run(*about, "paddle-stacks/train:cpu").stdout
    said = follow(machine, home, f"cd ~/paddle-stacks\n{BUILD.text}".replace("$ ", ""))
    run = int(re.findall(r"(\d+) steps run", said)[0])
    assert run > 10, said
    after = machine.run(*about, "paddle-stacks/train:cpu").stdout
    assert before != after
    # What they say they are made of is the same, and they work.
    assert labels(machine, before.split()[0]) == labels(machine, after.split()[0])
    asked = ["--prompt", "What is the capital of France?", "--decode", "greedy"]
    said = machine.run(
        *("./inv", "infer", "--model", MODEL, *asked, "--max-new-tokens", "16"), cwd=loaded
    ).stdout
    assert "Paris" in said


def labels(machine: Machine, image: str) -> dict[str, str]:
    found = machine.run("docker", "inspect", "--format={{json .Config.Labels}}", image).stdout
    return dict(json.loads(found))
