"""What host and container agree on for ``serve``: ports, keys, addresses, arguments."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from entrypoints.serving import arguments
from entrypoints.serving.client_address import ClientAddresses, gateways, host_of, is_local_name
from entrypoints.serving.rate_limit import RateLimit
from entrypoints.serving.server import listen
from paddle_stacks import launch, preflight
from paddle_stacks.errors import MachineError, RequestError
from paddle_stacks.executors.docker import container_options
from paddle_stacks.jobs import serving
from paddle_stacks.plan import Port, backend, show
from paddle_stacks.plan.kubernetes import as_kubernetes
from paddle_stacks.plan.slurm import as_slurm
from paddle_stacks.settings import Settings

ROOT = Path(__file__).parents[2]
KEY = "sk-0123456789abcdef"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"alice {KEY}\n")
    return path


def plan(*words: str, workspace: Path = ROOT, platform: str = "cpu", profile: str = ""):
    settings = Settings(root=ROOT, workspace=workspace, backend=platform)
    choices = launch.Choices(profile=profile)
    return launch.make_plan("serve", ["--model", "m", *words], settings, choices)


# ------------------------------------------------------------------------ the plan


def test_a_plan_publishes_its_port_on_this_machine_only() -> None:
    made = plan("--port", "8123", "--batch-size", "4")
    assert made.ports == (Port("127.0.0.1", 8123),)
    assert made.network == "bridge" and made.secrets == ()
    assert made.argv == (
        *("serve", "--model", "m", "--port", "8123", "--published", "--batch-size", "4"),
    )
    assert container_options(made, {})["ports"] == {"8123/tcp": ("127.0.0.1", 8123)}
    assert ["--publish", "127.0.0.1:8123:8123"] in show.docker_arguments(made)
    assert "127.0.0.1:8123" in show.as_text(made)
    assert show.as_json(made)["ports"] == [{"address": "127.0.0.1", "number": 8123}]


def test_keys_are_a_secret_and_open_the_port(keys: Path) -> None:
    made = plan("--host", "0.0.0.0", "--api-keys", str(keys))
    assert made.ports == (Port("0.0.0.0", 8000),)
    assert [(s.name, s.source) for s in made.secrets] == [("api_keys", str(keys))]
    assert made.secrets[0].target == str(arguments.MOUNTED_KEYS)
    assert not {"--api-keys", "--host"} & set(made.argv)
    told = json.dumps(show.as_json(made)) + show.as_text(made) + repr(made)
    assert KEY not in told and str(keys) in told


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::"])
def test_without_keys_no_port_is_open(host: str) -> None:
    with pytest.raises(RequestError, match="requires --api-keys"):
        plan("--host", host)


def test_a_name_is_no_address_to_publish_on(keys: Path) -> None:
    with pytest.raises(RequestError, match="must be an IP address"):
        plan("--host", "example.org", "--api-keys", str(keys))
    assert plan("--host", "localhost").ports == (Port("127.0.0.1", 8000),)
    assert ["--publish", "[::1]:8000:8000"] in show.docker_arguments(plan("--host", "::1"))


def test_in_the_hosts_own_network_the_server_itself_listens_on_this_machine_only() -> None:
    made = plan(platform="dcu", profile="doc")
    assert made.network == "host" and made.ports == ()
    assert made.argv == ("serve", "--model", "m")
    assert arguments.parse(list(made.argv[1:])).address == "127.0.0.1"


def test_a_scheduler_does_not_serve() -> None:
    platform = backend.load("cpu", ROOT)
    for render in (as_slurm, as_kubernetes):
        with pytest.raises(RequestError, match="a server cannot run as a scheduled job"):
            render(plan(), platform)


def test_a_port_that_is_taken_is_told_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(MachineError, match=f"port {port} of 127.0.0.1"):
            preflight.check_ports(plan("--port", str(port)))
    preflight.check_ports(plan("--port", str(port)))


def test_what_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    made = plan("--adapter", "none", "--api-keys", str(tmp_path / "empty"), workspace=tmp_path)
    with pytest.raises(RequestError) as wrong:
        preflight.check_request(made)
    told = [problem.what for problem in wrong.value.problems]
    assert told == ['no model "m"', 'no run "none"', "the file has no API keys"]


# ------------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--port", "70000"], "--port must be"),
        (["--port", "-1"], "--port must be"),
        (["--batch-size", "0"], "--batch-size must be"),
        (["--max-waiting", "-1"], "--max-waiting must be"),
        (["--max-new-tokens", "0"], "--max-new-tokens must be"),
        (["--max-prompt-tokens", "0"], "--max-prompt-tokens must be"),
        (["--cache-tokens", "0"], "--cache-tokens must be"),
        (["--prefill-tokens", "0"], "--prefill-tokens must be"),
        (["--requests-per-minute", "-1"], "--requests-per-minute must be"),
        (["--grace", "-1"], "--grace must be"),
        (["--request-timeout", "0"], "request-timeout"),
        (["--request-timeout", "nan"], "request-timeout"),
        (["--dtype", "float16"], "a CPU computes in float32"),
        (["--precision", "bf16"], "--precision requires --engine native"),
        (["--engine", "static"], "static"),
        (["--served-model-name", ""], "--served-model-name"),
        (["--served-model-name", "a b"], "--served-model-name"),
        (["--host", "0.0.0.0"], "requires --api-keys"),
        (["--api-keys", "/no/such/file"], "cannot read the API keys"),
        (["--prot", "8000"], "--prot"),
    ],
)
def test_arguments_that_are_wrong(words: list[str], what: str) -> None:
    with pytest.raises(RequestError, match=what):
        arguments.parse(["--model", "m", *words])


def test_a_published_container_listens_on_all_its_addresses() -> None:
    assert arguments.parse(["--model", "m"]).address == "127.0.0.1"
    assert arguments.parse(["--model", "m", "--published"]).address == "0.0.0.0"


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1", "10.0.0.1"])
def test_a_port_that_others_reach_requires_keys(
    address: str, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["--model", "m", "--published"]
    for loopback in ("127.0.0.1", "::1", "localhost"):
        monkeypatch.setenv(serving.PUBLISHED_ADDRESS, loopback)
        assert not arguments.parse(line).keys
    monkeypatch.setenv(serving.PUBLISHED_ADDRESS, address)
    with pytest.raises(RequestError, match=f"SERVE_ADDRESS={address} requires API keys") as wrong:
        arguments.parse(line)
    assert "PADDLE_STACKS_API_KEYS_FILE" in wrong.value.problems[0].remedy
    assert arguments.parse([*line, "--api-keys", str(keys)]).keys


@pytest.mark.parametrize(
    ("origin", "right"),
    [
        ("https://app.example", True),
        ("http://localhost:3000", True),
        ("https://app.example/", False),
        ("app.example", False),
        ("null", False),
        ("https://app.example\r\nX: y", False),
    ],
)
def test_origins_are_scheme_host_and_port(origin: str, right: bool) -> None:
    line = ["--model", "m", "--allowed-origin", origin]
    if right:
        assert arguments.parse(line).allowed_origin == (origin,)
    else:
        with pytest.raises(RequestError, match="is not an origin"):
            arguments.parse(line)


def test_every_origin_requires_keys(keys: Path) -> None:
    line = ["--model", "m", "--allowed-origin", "*"]
    with pytest.raises(RequestError, match="requires --api-keys"):
        arguments.parse(line)
    assert arguments.parse([*line, "--api-keys", str(keys)]).allowed_origin == ("*",)


def test_small_parts_are_sent_at_once() -> None:
    found = listen("127.0.0.1", 0)
    with found.socket:
        # asyncio sets TCP_NODELAY where it knows that it is TCP.
        assert found.socket.proto == socket.IPPROTO_TCP
        assert found.url == f"http://127.0.0.1:{found.socket.getsockname()[1]}/"
    with pytest.raises(MachineError, match=r"cannot listen on 192\.0\.2\.1"):
        listen("192.0.2.1", 0)


# ------------------------------------------------------------------------ keys


def test_keys_have_names_or_get_them(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# who may\n\nalice {KEY}a\n  {KEY}b  \nbob\t{KEY}c\n")
    assert serving.load(path) == {"alice": KEY + "a", "key4": KEY + "b", "bob": KEY + "c"}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("short", "at least 16 characters, got 5"),
        (f"a b {KEY}", "a line must be KEY"),
        (f"a {KEY}x\na {KEY}y", "the name a is used twice"),
        (f"a {KEY}\nb {KEY}", "the key is used twice"),
        (f"-a {KEY}", "a name must consist of letters"),
        ("sk-ключ-ключ-ключ-ключ", "printable ASCII"),
    ],
)
def test_a_file_of_keys_that_is_wrong(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(RequestError) as wrong:
        serving.load(path)
    assert what in str(wrong.value)
    assert KEY not in str(wrong.value), "a message holds no key"


def test_no_keys_where_compose_has_none(tmp_path: Path) -> None:
    assert serving.load(Path("/dev/null")) == {}
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(RequestError, match="not UTF-8"):
        serving.load(tmp_path / "binary")


def test_every_key_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(given: bytes, key: bytes) -> bool:
        compared.append(key)
        return given == key

    monkeypatch.setattr(serving.hmac, "compare_digest", compare)
    keys = serving.Keys({"a": KEY + "a", "b": KEY + "b", "c": KEY + "c"})
    assert keys.owner(KEY + "a") == "a"
    assert len(compared) == 3, "the first is right, and the others are looked at all the same"
    assert keys.owner("\udcff") is None
    assert not serving.Keys({})


# ------------------------------------------------------------------------ whose connection


@pytest.mark.parametrize(
    ("client", "server", "local"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.8.9.1", "127.0.0.1", True),
        ("::1", "::1", True),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1", True),
        ("172.17.0.1", "172.17.0.2", True),  # the engine's side of a port on its loopback
        ("::ffff:172.17.0.1", "::ffff:172.17.0.2", True),
        ("172.17.0.2", "172.17.0.2", True),  # the container itself
        ("172.17.0.3", "172.17.0.2", False),  # another container
        ("192.0.2.7", "172.17.0.2", False),  # another machine, by a port that is open to all
        ("2001:db8::1", "172.17.0.2", False),
        ("", "", False),
        ("unix", "unix", False),
    ],
)
def test_which_connections_are_this_machines(client: str, server: str, local: bool) -> None:
    assert ClientAddresses(frozenset({"172.17.0.1"})).local(client, server) is local


def test_outside_a_container_a_gateway_is_a_stranger() -> None:
    assert not ClientAddresses(frozenset()).local("172.17.0.1", "172.17.0.2")


def test_gateways_are_those_of_the_default_routes(tmp_path: Path) -> None:
    routes = tmp_path / "route"
    head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
    routes.write_text(
        head
        + "eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        + "eth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
        + "eth1\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n"
    )
    assert gateways(routes) == {"172.17.0.1"}
    assert gateways(tmp_path / "none") == frozenset()


@pytest.mark.parametrize(
    ("header", "host", "local"),
    [
        ("localhost", "localhost", True),
        ("LOCALHOST:8000", "localhost", True),
        ("127.0.0.1:8000", "127.0.0.1", True),
        ("[::1]:8000", "::1", True),
        ("chat.localhost", "chat.localhost", True),
        ("evil.example", "evil.example", False),
        ("127.0.0.1.evil.example", "127.0.0.1.evil.example", False),
        ("localhost.evil.example:80", "localhost.evil.example", False),
        ("192.0.2.1", "192.0.2.1", False),
        ("", "", False),
        ("[", "", False),
    ],
)
def test_whose_name_a_request_is_for(header: str, host: str, local: bool) -> None:
    assert host_of(header) == host
    assert is_local_name(host) is local


# ------------------------------------------------------------------------ how often


def test_a_bucket_fills_evenly_and_everybody_has_one() -> None:
    now = 0.0
    rate = RateLimit(6, lambda: now)
    assert [rate.take("a") for _ in range(7)] == [0] * 6 + [10]
    assert rate.take("b") == 0
    now = 9.0
    assert rate.take("a") == 1
    now = 10.0
    assert [rate.take("a") for _ in range(2)] == [0, 10]
    now = 1000.0
    assert [rate.take("a") for _ in range(7)] == [0] * 6 + [10]
    assert [RateLimit(0, lambda: now).take("a") for _ in range(100)] == [0] * 100
