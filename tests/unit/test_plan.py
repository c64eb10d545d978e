"""The content of plans, their output, and the backends."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from paddle_stacks.dcu.host import Driver, Host, Node
from paddle_stacks.errors import RequestError
from paddle_stacks.jobs.catalog import JOBS
from paddle_stacks.plan import Backend, Plan, backend, make, show
from paddle_stacks.settings import Settings

ROOT = Path(__file__).parents[2]
CPU = Backend("cpu", "", environment={"OF_THE": "backend"})
ACCELERATOR = Backend(
    "dcu",
    "",
    devices=("/dev/kfd", "/dev/dri"),
    groups=("video",),
    shm_mib=16384,
    ulimits={"memlock": -1, "stack": 67108864},
)


def plan_for(
    job: str = "infer",
    *arguments: str,
    settings: Settings | None = None,
    platform: Backend = CPU,
) -> Plan:
    return make(
        JOBS[job],
        arguments,
        settings or Settings(root=Path("/repo"), workspace=Path("/repo/ws")),
        platform,
        user="1000:1001",
        suffix="x1",
    )


def settings_with(**changes: object) -> Settings:
    settings = Settings(root=Path("/repo"), workspace=Path("/repo/ws"))
    return dataclasses.replace(settings, **changes)  # type: ignore[arg-type]


def test_a_plan_shows_its_notes() -> None:
    plan = dataclasses.replace(plan_for("finetune", "--config", "a.json"), notes=("no template",))
    assert "no template" in show.as_text(plan)
    assert "no template" in show.as_line(plan)
    assert show.as_json(plan)["notes"] == ["no template"]


def test_a_plan_has_the_least_rights() -> None:
    plan = plan_for()
    assert plan.cap_drop == ("ALL",)
    assert plan.security_opt == ("no-new-privileges",)
    assert plan.read_only
    assert plan.user == "1000:1001"
    assert plan.devices == () and plan.groups == ()
    assert not [m for m in plan.mounts if not m.read_only], (
        "infer writes to none of them by default"
    )
    assert "/repo/ws" not in [m.source for m in plan.mounts], "never the workspace itself"


@pytest.mark.parametrize("job", JOBS)
def test_only_fetch_and_serve_have_a_network(job: str) -> None:
    assert plan_for(job).network == (
        "bridge" if job in ("fetch", "fetch-data", "serve") else "none"
    )


@pytest.mark.parametrize("job", JOBS)
def test_only_fetch_gets_proxies_and_secrets(job: str) -> None:
    settings = settings_with(
        ca_bundle=Path("/ca.pem"), https_proxy="http://p:1", hub_token_file=Path("/t")
    )
    plan = plan_for(job, settings=settings)
    assert bool(plan.secrets) == (job in ("fetch", "fetch-data"))
    assert ("https_proxy" in plan.environment) == (job in ("fetch", "fetch-data"))


def test_the_image_is_the_jobs_on_the_backend() -> None:
    assert plan_for("finetune").image == "paddle-stacks/train:cpu"
    assert plan_for("infer", platform=ACCELERATOR).image == "paddle-stacks/infer:dcu"


def test_a_job_reports_events_and_gets_the_backends_environment() -> None:
    assert plan_for().environment == {"PADDLE_STACKS_EVENTS": "1", "OF_THE": "backend"}


def test_a_job_shows_tracebacks_if_the_host_does() -> None:
    settings = settings_with()
    plan = make(JOBS["infer"], [], settings, CPU, user="1:1", suffix="x", debug=True)
    assert plan.environment["PADDLE_STACKS_DEBUG"] == "1"


def test_the_bundle_is_set_for_openssl_requests_and_pip() -> None:
    plan = plan_for("fetch", settings=settings_with(ca_bundle=Path("/etc/my ca.pem")))
    assert [(s.source, s.target) for s in plan.secrets] == [
        ("/etc/my ca.pem", "/run/secrets/ca_bundle")
    ]
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT"):
        assert plan.environment[name] == "/run/secrets/ca_bundle"


def test_proxies_are_set_in_lower_and_upper_case() -> None:
    plan = plan_for("fetch", settings=settings_with(http_proxy="http://p:1", no_proxy="a,b"))
    assert plan.environment["http_proxy"] == plan.environment["HTTP_PROXY"] == "http://p:1"
    assert plan.environment["no_proxy"] == plan.environment["NO_PROXY"] == "a,b"
    assert "https_proxy" not in plan.environment


def test_an_index_without_a_password_is_a_variable() -> None:
    plan = plan_for("fetch", settings=settings_with(index_url="https://host/simple"))
    assert plan.environment["PIP_INDEX_URL"] == "https://host/simple"
    assert plan.secrets == ()


def test_an_index_with_a_password_is_a_file() -> None:
    plan = plan_for("fetch", settings=settings_with(index_url="https://me:hidden@host/simple"))
    assert "PIP_INDEX_URL" not in plan.environment
    assert plan.environment["PIP_CONFIG_FILE"] == "/run/secrets/pip.conf"
    assert plan.secrets[0].content == "[global]\nindex-url = https://me:hidden@host/simple\n"


def test_no_password_is_shown() -> None:
    settings = settings_with(
        index_url="https://me:hidden@host/simple", https_proxy="http://me:hidden@proxy:1"
    )
    plan = plan_for("fetch", "x", settings=settings)
    shown = [show.as_text(plan), show.as_line(plan), json.dumps(show.as_json(plan))]
    shown += [show.as_docker_command(plan), repr(plan.secrets)]
    for text in shown:
        assert "hidden" not in text
    assert "https_proxy=http://***@proxy:1" in show.as_text(plan)


def test_variables_with_passwords_are_passed_by_name() -> None:
    settings = settings_with(
        index_url="https://me:hidden@host/simple", https_proxy="http://me:hidden@proxy:1"
    )
    words = shlex.split(show.as_docker_command(plan_for("fetch", "x", settings=settings)))
    variables = {words[i + 1] for i, word in enumerate(words) if word == "--env"}
    assert variables == {"https_proxy", "HTTPS_PROXY", "OF_THE=backend", "PIP_INDEX_URL"}


def test_the_docker_command_line() -> None:
    command = show.as_docker_command(plan_for("infer", "--model", "m", "--prompt", "it's me"))
    assert shlex.split(command.replace("\\\n", "")) == [
        *("docker", "run", "--rm", "--name", "paddle-stacks-infer-x1"),
        *("--user", "1000:1001", "--network", "none", "--read-only"),
        *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
        *("--tmpfs", "/tmp:size=2048m,mode=1777", "--shm-size", "1024m"),
        *("--pids-limit", "4096", "--stop-timeout", "45"),
        *("--log-driver", "local", "--log-opt", "max-size=32m", "--log-opt", "max-file=3"),
        *("--label", "paddle-stacks.job=infer", "--label", "paddle-stacks.version=0.1.0"),
        *("--mount", "type=bind,source=/repo/ws/models,target=/workspace/models,readonly"),
        *("--mount", "type=bind,source=/repo/ws/data,target=/workspace/data,readonly"),
        *("--mount", "type=bind,source=/repo/ws/runs,target=/workspace/runs,readonly"),
        *("--env", "OF_THE=backend"),
        *("paddle-stacks/infer:cpu", "infer", "--model", "m", "--prompt", "it's me"),
    ]


def test_the_docker_command_line_has_devices_and_limits() -> None:
    command = show.as_docker_command(plan_for(platform=ACCELERATOR), multiline=False)
    for words in (
        "--device /dev/kfd --device /dev/dri --group-add video",
        "--ulimit memlock=-1:-1 --ulimit stack=67108864:67108864",
        "--shm-size 16384m",
    ):
        assert words in command


def test_a_path_with_a_comma_stays_one_path() -> None:
    settings = settings_with(workspace=Path("/a, b"))
    assert '"source=/a, b/runs"' in show.as_docker_command(plan_for(settings=settings))


def test_the_text_has_the_settings() -> None:
    text = show.as_text(plan_for("finetune", "--config", "a b.json", platform=ACCELERATOR))
    for words in (
        "plan: finetune on dcu",
        "finetune --config 'a b.json'",
        "paddle-stacks/train:dcu",
        "1000:1001",
        "/repo/ws/runs → /workspace/runs",
        "/dev/kfd",
        "video",
        "memlock unlimited",
        "/dev/shm up to 16384 MiB",
        "SIGTERM, then SIGKILL after 45 s",
    ):
        assert words in text, words


def test_the_json_holds_every_field_of_the_plan() -> None:
    shown = show.as_json(plan_for())
    # The request is shown as the command line.
    assert {field.name for field in dataclasses.fields(Plan)} - {"request"} <= set(shown)
    assert json.loads(json.dumps(shown)) == shown


def test_the_shipped_backends_are_valid() -> None:
    names = [path.stem for path in (ROOT / "configs" / "backends").glob("*.toml")]
    assert "cpu" in names
    for name in names:
        assert backend.load(name, ROOT).summary


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", '"summary" is missing'),
        ('summary = "x"\ndevicez = []\n', 'unknown key "devicez"'),
        ('summary = "x"\ndevice = []\n', '"device" must be a string'),
        ('summary = "x"\n[profiles.p]\nusr = "root"\n', 'unknown key "usr"'),
        ('extends = "odd"\n', '"odd" extends itself'),
        ('summary = "x"\nshm_mib = "8g"\n', '"shm_mib" must be an integer'),
        ('summary = "x"\nshm_mib = true\n', '"shm_mib" must be an integer'),
        ('summary = "x"\ngroups = [39]\n', '"groups" must be a list of strings'),
        ('summary = "x"\n[ulimits]\nmemlock = "-1"\n', '"ulimits" must be a table'),
    ],
)
def test_an_invalid_backend_is_rejected(tmp_path: Path, text: str, words: str) -> None:
    folder = tmp_path / "configs" / "backends"
    folder.mkdir(parents=True)
    (folder / "odd.toml").write_text(text)
    with pytest.raises(RequestError) as caught:
        backend.load("odd", tmp_path)
    assert words in caught.value.problems[0].what
    assert "odd.toml" in caught.value.problems[0].where


def test_an_unknown_backend() -> None:
    with pytest.raises(RequestError) as caught:
        backend.load("cpus", ROOT)
    assert 'did you mean "cpu"?' in caught.value.problems[0].remedy


HOST = Host(
    Path("/sim"),
    (
        Node("/dev/kfd", "/sim/dev/kfd", 109, 0o660),
        Node("/dev/mkfd", "/sim/dev/mkfd", 109, 0o660),
        Node("/dev/dri", "/sim/dev/dri", 0, 0o755),
        Node("/dev/dri/card0", "/sim/dev/dri/card0", 44, 0o660),
    ),
    "/sim/usr/local/hyhal",
    Driver("hydcu", "6.2.17a"),
)


def dcu(profile: str = "", host: Host = HOST, **options: Any) -> Plan:
    platform = backend.load("dcu", ROOT, profile)
    return make(
        JOBS["infer"], [], settings_with(), platform, user="1:2", suffix="x", host=host, **options
    )


def test_a_dcu_plan_has_the_hosts_nodes_groups_and_user_land() -> None:
    plan = dcu()
    assert [(d.source, d.target) for d in plan.devices] == [
        ("/sim/dev/kfd", "/dev/kfd"),
        ("/sim/dev/dri", "/dev/dri"),
        ("/sim/dev/mkfd", "/dev/mkfd"),
    ]
    assert plan.groups == ("44", "109"), "numeric: group names differ between host and container"
    hyhal = next(mount for mount in plan.mounts if mount.target == "/opt/hyhal")
    assert (hyhal.source, hyhal.read_only) == ("/sim/usr/local/hyhal", True)
    assert plan.ulimits == {"core": 0, "memlock": -1, "stack": -1}
    assert plan.shm_mib == 128 * 1024


def test_a_dcu_plan_has_the_least_rights() -> None:
    plan = dcu()
    assert not plan.privileged and plan.read_only and plan.ipc == ""
    assert (plan.cap_drop, plan.cap_add) == (("ALL",), ())
    assert plan.security_opt == ("no-new-privileges",)
    assert (plan.user, plan.network) == ("1:2", "none")


def test_a_plan_for_another_machine_has_the_resources_of_every_dcu_host() -> None:
    plan = make(
        JOBS["infer"], [], settings_with(), backend.load("dcu", ROOT), user="1:2", suffix="x"
    )
    assert [device.source for device in plan.devices] == ["/dev/kfd", "/dev/dri"]
    assert plan.groups == ("video",)
    assert "/opt/hyhal" in [mount.source for mount in plan.mounts]


def test_selected_devices_reach_the_runtime_and_the_launcher() -> None:
    plan = dcu(cards=(4, 6))
    assert plan.environment["HIP_VISIBLE_DEVICES"] == "4,6"
    assert plan.environment["PADDLE_DEVICES"] == "0,1", (
        "the launcher numbers the visible devices from 0"
    )
    assert plan.ranks == 2 and plan.cards == (4, 6)
    assert "HIP_VISIBLE_DEVICES" not in dcu().environment


def test_the_debug_profile_adds_only_the_rights_of_a_debugger() -> None:
    plan = dcu("debug")
    changed = {
        field.name
        for field in dataclasses.fields(Plan)
        if getattr(plan, field.name) != getattr(dcu(), field.name)
    }
    assert changed == {"profile", "cap_add", "security_opt"}


# The container options in upstream's instructions for DCU.
DOCUMENTED = """
    --network=host --privileged --device=/dev/kfd --device=/dev/dri --ipc=host --shm-size=128G
    --group-add=video --cap-add=SYS_PTRACE --security-opt=seccomp=unconfined --user=root
    --ulimit=stack=-1:-1 --ulimit=memlock=-1:-1
"""


def test_the_documented_profile_has_the_documented_flags() -> None:
    plan = dcu("doc", host=Host(Path("/"), (), "/usr/local/hyhal", None))
    ours = set()
    for name, *value in show.docker_arguments(plan)[1:-1]:
        ours.add(f"{name}={value[0]}" if value else name)
    mounts = {word for word in ours if word.startswith("--mount")}
    assert mounts == {
        "--mount=type=bind,source=/repo/ws/models,target=/workspace/models,readonly",
        "--mount=type=bind,source=/repo/ws/data,target=/workspace/data,readonly",
        "--mount=type=bind,source=/repo/ws/runs,target=/workspace/runs,readonly",
        "--mount=type=bind,source=/usr/local/hyhal,target=/opt/hyhal",
    }, "the driver's folder is writable, as documented"
    expected = {word for word in DOCUMENTED.split() if word.startswith("--")}
    expected = expected - {"--shm-size=128G"} | {"--shm-size=131072m"}
    # Our own options, none of which affects the container's rights.
    own = {"--name", "--tmpfs", "--stop-timeout", "--label", "--log-driver", "--log-opt"}
    assert {word for word in ours - mounts if word.split("=")[0] not in own} == expected


def test_an_unknown_profile() -> None:
    with pytest.raises(RequestError) as caught:
        backend.load("dcu", ROOT, "docs")
    assert 'did you mean "doc"?' in caught.value.problems[0].remedy


def test_the_simulated_backend_differs_in_its_images_and_one_limit() -> None:
    real, simulated = backend.load("dcu", ROOT), backend.load("dcu-sim", ROOT)
    assert simulated == dataclasses.replace(
        real,
        name="dcu-sim",
        summary=simulated.summary,
        extends="dcu",
        device="cpu",
        ulimits={"core": 0, "stack": -1},
        lock="cpu",
        architectures=simulated.architectures,
        paddlenlp="tests/paddlenlp",
    )


def test_a_job_that_computes_nothing_gets_no_device() -> None:
    platform = backend.load("dcu", ROOT)
    plan = make(JOBS["fetch"], ["x"], settings_with(), platform, user="1:2", suffix="x", host=HOST)
    assert (plan.devices, plan.groups, plan.ulimits) == ((), (), {})
    assert [mount.target for mount in plan.mounts] == [
        *("/workspace/models", "/workspace/data", "/workspace/runs")
    ]
    assert plan.image == "paddle-stacks/infer:dcu" and plan.network == "bridge"
    documented = backend.load("dcu", ROOT, "doc")
    plan = make(
        JOBS["fetch"], ["x"], settings_with(), documented, user="1:2", suffix="x", host=HOST
    )
    assert plan.devices, "a profile applies to every job"
