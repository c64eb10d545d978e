"""Output of hy-smi in every known format, and truncated anywhere."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from paddle_stacks.dcu import smi
from paddle_stacks.dcu.smi import Card, Memory, Process
from paddle_stacks.errors import MachineError

RECORDED = Path(smi.__file__).parents[1] / "simulated" / "recorded"
RECORDS = {path.stem: path.read_text(encoding="utf-8") for path in RECORDED.glob("*.txt")}


def of(prefix: str) -> list[str]:
    return sorted(name for name in RECORDS if name.startswith(prefix))


@pytest.mark.parametrize("name", of("table"))
def test_every_table_gives_eight_cards_with_the_values_of_its_columns(name: str) -> None:
    cards = smi.parse(RECORDS[name])
    assert [card.index for card in cards] == list(range(8))
    for card in cards:
        assert card.temperature_c is not None and 20 < card.temperature_c < 90
        assert card.power_w and card.power_cap_w and card.power_w < card.power_cap_w
        assert card.vram_percent is not None
        assert card.use_percent is not None


def test_the_columns_are_those_of_the_headings() -> None:
    first = {name[6:]: smi.parse(RECORDS[name])[0] for name in of("table-")}
    assert first["a"] == Card(0, "", 30.0, 38.0, 280.0, 0.0, 0.0)
    assert first["b"] == Card(0, "", 30.0, 38.0, 225.0, 0.0, 0.0)
    assert first["c"] == Card(0, "", 49.0, 118.0, 800.0, 0.0, 0.0, "Normal")
    assert first["d"] == Card(0, "", 63.0, 109.0, 400.0, 0.0, 0.0, "Normal")
    assert first["e"] == Card(0, "", 50.0, 80.0, 1000.0, 0.0, 0.0, "Normal")
    assert smi.parse(RECORDS["table-e"])[7].mode == "MIG"


def test_columns_in_another_order_and_with_another_name() -> None:
    text = "HCU  Temp (DieEdge)  HCU%  New  VRAM%\n3  40.0c  12.5%  x  7%\n"
    assert smi.parse(text) == (Card(3, temperature_c=40.0, use_percent=12.5, vram_percent=7.0),)


def test_missing_values_are_none() -> None:
    text = "DCU Temp AvgPwr Perf PwrCap VRAM% DCU% Mode\n0 N/A N/A auto N/A 3% Unknown N/A\n"
    assert smi.parse(text) == (Card(0, vram_percent=3.0),)


def test_text_around_the_table_is_ignored() -> None:
    noise = "hymgr.c:344, WARNING]: Version mismatch\n0 what is this\n"
    table = RECORDS["table-c"]
    assert smi.parse(noise + table + "9  what is this\n") == smi.parse(table)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", "the end of its output"),
        ("\n====\nSegmentation fault\n", "Segmentation fault"),
        ("DCU Temp VRAM%\n0 40.0C\n", "0 40.0C"),
        ("DCU Temp VRAM%\n0 40.0C 0% 12\n", "0 40.0C 0% 12"),
        ("DCU Temp VRAM%\n0 40.0C 1?2%\n", "0 40.0C 1?2%"),
    ],
)
def test_a_table_in_an_unknown_format_is_an_error_with_the_line(text: str, shown: str) -> None:
    with pytest.raises(MachineError) as raised:
        smi.parse(text)
    assert shown in raised.value.problems[0].where
    assert raised.value.problems[0].remedy


def test_memory_in_mib_and_in_bytes() -> None:
    assert smi.parse_memory(RECORDS["memory-mib"])[7] == Memory(65520, 2)
    assert smi.parse_memory(RECORDS["memory-bytes"])[7] == Memory(32752, 5)
    with pytest.raises(MachineError, match="the memory"):
        smi.parse_memory("HCU[0] : vram Total Memory (furlongs): 3\n")


@pytest.mark.parametrize("name", of("json"))
def test_json_is_read_even_if_it_is_invalid(name: str) -> None:
    cards = smi.parse_json(RECORDS[name])
    assert len(cards) == (1 if name == "json-one" else 8)
    for card in cards:
        names = {"json-bw1000": "BW", "json-k100": "K100", "json-k500sm-ai": "K500SM_AI"}
        assert card.name == names.get(name, "K100_AI")
        assert (card.vram_total_mib, card.vram_used_mib, card.use_percent) == (65520, 2, 0.0)
        assert card.power_w is not None and card.temperature_c is not None


def test_json_with_units_outside_of_quotes_and_no_comma_between_cards() -> None:
    text = (
        '{"card0": {"GPU use (%)": "0%" "VRAM Total Memory (B)": 34359738368 '
        '"VRAM Total Used Memory (B)": 0 "Temperature (Sensor edge) (C)": 41.0C '
        '"Average Graphics Package Power (W)": 80W} "card1": {"GPU use (%)": "7%"}}'
    )
    assert smi.parse_json(text) == (
        Card(
            0,
            temperature_c=41.0,
            power_w=80.0,
            vram_percent=0.0,
            use_percent=0.0,
            vram_total_mib=32768,
            vram_used_mib=0,
        ),
        Card(1, use_percent=7.0),
    )


def test_processes_in_blocks_as_plain_pids_and_none() -> None:
    assert smi.parse_pids(RECORDS["pids-busy"]) == (Process(2004092, (3,), 3410),)
    assert [p.cards for p in smi.parse_pids(RECORDS["pids-full"])] == [(2,), (3,)]
    assert smi.parse_pids(RECORDS["pids-none"]) == ()
    assert smi.parse_pids("No KFD PIDs currently running!\n") == ()
    assert smi.parse_pids("PIDs for KFD processes:\n12 345\n") == (Process(12), Process(345))
    several = "PIDs for KFD processes:\nPID: 1\n    HCU Index: ['0'] ['1'] ['7']\n"
    assert smi.parse_pids(several) == (Process(1, (0, 1, 7)),)
    with pytest.raises(MachineError):
        smi.parse_pids("usage: hy-smi\n")


PARSERS = {
    "table": smi.parse,
    "memory": smi.parse_memory,
    "json": smi.parse_json,
    "pids": smi.parse_pids,
    "failure": smi.parse,
}


@pytest.mark.parametrize("name", sorted(n for n in RECORDS if not n.startswith("driver")))
def test_truncated_output_is_parsed_or_a_machine_error(name: str) -> None:
    parser = PARSERS[name.partition("-")[0]]
    text = RECORDS[name]
    for end in range(0, len(text), 1 if len(text) < 1500 else 7):
        for piece in (text[:end], text[end:], text[:end] + text[end + 3 :]):
            try:
                parser(piece)
            except MachineError as error:
                assert len(error.problems[0].where) < 150


@pytest.mark.parametrize("name", of("json"))
def test_truncated_json_never_means_fewer_cards(name: str) -> None:
    text = RECORDS[name].rstrip()
    for end in range(1, len(text), 5):
        with pytest.raises(MachineError):
            smi.parse_json(text[:end])


@pytest.mark.parametrize(
    ("card", "busy"),
    [
        (Card(0), False),
        (Card(0, vram_percent=0.0, use_percent=0.0), False),
        (Card(0, vram_percent=3.0, use_percent=0.9), False),
        (Card(0, vram_percent=4.0), True),
        (Card(0, use_percent=1.0), True),
        (Card(0, vram_percent=0.0, vram_total_mib=65520, vram_used_mib=2), False),
        (Card(0, vram_percent=3.0, vram_total_mib=65520, vram_used_mib=2200), True),
    ],
)
def test_busy_is_more_memory_or_use_than_an_idle_card_has(card: Card, busy: bool) -> None:
    assert card.busy is busy


def program(root: Path, script: str) -> Path:
    path = root / "opt" / "hyhal" / "bin" / "hy-smi"
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\n" + script, encoding="utf-8")
    path.chmod(0o755)
    return path


def test_an_hy_smi_with_only_the_table_is_enough(tmp_path: Path) -> None:
    program(tmp_path, "[ $# = 0 ] || exit 2\necho DCU Temp VRAM%\necho 1 40.0C 0%\n")
    assert smi.read(tmp_path) == (Card(1, temperature_c=40.0, vram_percent=0.0),)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo no driver >&2; exit 1", "status 1: no driver"),
        ("exit 7", "status 7"),
        ("kill -9 $$", "status -9"),
        ("echo hello", "prints the table of cards in an unknown format"),
        ("echo DCU Temp VRAM%", "lists no card"),
    ],
)
def test_a_failure_is_reported_with_its_cause(tmp_path: Path, script: str, message: str) -> None:
    path = program(tmp_path, script)
    with pytest.raises(MachineError) as raised:
        smi.read(tmp_path)
    problem = raised.value.problems[0]
    assert message in problem.what and problem.remedy
    assert problem.where in (str(path), 'line "hello"')


def test_an_hy_smi_that_is_missing_or_not_executable(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="not installed"):
        smi.read(tmp_path)
    program(tmp_path, "").write_bytes(b"\x7fELF of another machine")
    with pytest.raises(MachineError, match="cannot be started"):
        smi.read(tmp_path)


@pytest.mark.parametrize("option", ["", "--showmeminfo"])
def test_an_hy_smi_that_hangs_is_killed_with_its_children(tmp_path: Path, option: str) -> None:
    pid_file = tmp_path / "pid"
    program(
        tmp_path,
        f'if [ "${{1:-}}" = "{option}" ]; then sleep 60 & echo $! >{pid_file}; wait; fi\n'
        'printf "DCU Temp\\n0 40.0C\\n"\n',
    )
    started = time.monotonic()
    with pytest.raises(MachineError, match="timed out"):
        smi.read(tmp_path, timeout=0.5)
    assert time.monotonic() - started < 5
    pid = int(pid_file.read_text())
    for _ in range(50):
        # pid 1 may be slow to reap orphans; a zombie has ended.
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    os.kill(pid, 9)
    pytest.fail("the sleeping child was left behind")
