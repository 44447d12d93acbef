"""``facetrm doctor``: every planted fault is found by its own code, with a fix; healthy models have no finding."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest

from command_line import Said, assert_refused, command
from facetrm.doctor.findings import CODES
from facetrm.hub.export import export_published
from facetrm.hub.load import load_model
from facetrm.recipes.run import Run
from planting import planted, servers

DOCS = Path(__file__).parents[2] / "docs" / "doctor.md"


def diagnosed(said: Said) -> dict[str, Any]:
    assert said.code in (0, 3), said
    found = dict(json.loads(said.out))
    assert found["exit_code"] == said.code
    assert found["healthy"] is (said.code == 0)
    return found


def codes(found: dict[str, Any]) -> list[str]:
    return [finding["code"] for finding in found["findings"]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("doctor")


@pytest.fixture(scope="module")
def pairs(root: Path) -> Path:
    return Path(planted.write_pairs(root / "pairs.jsonl"))


@pytest.fixture(scope="module")
def healthy(root: Path) -> Path:
    return Path(planted.write_classifier(root / "healthy"))


@pytest.fixture(scope="module")
def native(root: Path, healthy: Path) -> Path:
    return Path(planted.write_native(root / "native", healthy))


def test_there_are_more_than_twelve_faults_and_each_has_a_code() -> None:
    planted_codes = {fault.code for fault in planted.FAULTS.values()}
    assert len(planted_codes) == len(planted.FAULTS) >= 12
    assert planted_codes | {code for code, _ in servers.SERVERS.values() if code} <= set(CODES)


@pytest.mark.parametrize("name", list(planted.FAULTS))
def test_a_planted_fault_is_found(name: str, tmp_path: Path, healthy: Path, pairs: Path) -> None:
    fault = planted.FAULTS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's own, while the adapter is planted
        folder = planted.write_planted(fault, tmp_path / "model", healthy)
    said = command("doctor", folder, "--data", pairs, "--json", "--device", "cpu")
    found = diagnosed(said)
    assert said.code == 3
    assert fault.code in codes(found)
    for finding in found["findings"]:
        assert all(finding[part] for part in ("problem", "measured", "culprit", "fix")), finding
    shown = command("doctor", folder, "--data", pairs, "--device", "cpu")
    assert shown.code == 3
    assert f"{fault.code}: " in shown.out


@pytest.mark.parametrize("which", ["healthy", "native"])
def test_a_healthy_model_has_no_finding(which: str, pairs: Path, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(which)
    said = command("doctor", folder, "--data", pairs, "--json", "--device", "cpu")
    found = diagnosed(said)
    assert said.code == 0
    assert found["findings"] == found["skipped"] == []
    assert found["conversations"] == 12
    lines = {line["name"]: line for line in found["variants"]}
    agreeing = [line for line in found["variants"] if line["expected"] == "agree"]
    assert [line["verdict"] for line in agreeing] == ["agrees"] * 7
    assert lines["engine, again"]["drift"]["largest"] == 0.0
    assert 0 < lines["plain, padded left"]["drift"]["largest_spreads"] < 1e-4
    assert lines["bfloat16 trunk"]["drift"]["largest_spreads"] > 1e-4
    for mistake in ("double BOS", "no BOS", "no end of turn", "last quarter cut", "oldest dropped"):
        assert lines[mistake]["verdict"] == "moves"
        assert lines[mistake]["drift"]["largest_spreads"] > 0.01, mistake
        assert lines[mistake]["drift"]["pairs"] == 6


def test_a_run_of_ours_is_healthy(tiny_run: Run, pairs: Path) -> None:
    said = command("doctor", tiny_run.folder, "--data", pairs, "--json", "--device", "cpu")
    assert said.code == 0
    assert diagnosed(said)["kind"] == "native"


def test_the_published_layout_gets_a_note_that_does_not_count(native: Path, pairs: Path, tmp_path: Path) -> None:
    export_published(load_model(native, device="cpu"), tmp_path / "gated")
    said = command("doctor", tmp_path / "gated", "--data", pairs, "--json", "--device", "cpu")
    found = diagnosed(said)
    assert (said.code, found["kind"], codes(found)) == (0, "gated", ["gated-head"])
    assert found["findings"][0]["severity"] == "note"


def test_a_smaller_threshold_finds_more(healthy: Path, pairs: Path) -> None:
    strict = diagnosed(command("doctor", healthy, "--data", pairs, "--threshold", "1e-9", "--json", "--device", "cpu"))
    assert {"padding-side", "batch-drift", "precision-drift"} <= set(codes(strict))
    assert strict["threshold"] == 1e-9


def test_allowed_codes_are_shown_and_do_not_count(healthy: Path, pairs: Path, tmp_path: Path) -> None:
    folder = planted.write_planted(planted.FAULTS["problem_type left empty"], tmp_path / "model", healthy)
    said = command("doctor", folder, "--data", pairs, "--allow", "activation", "--device", "cpu")
    assert said.code == 0
    assert "warning (allowed) activation: problem_type is None" in said.out
    assert command("doctor", folder, "--data", pairs, "--allow", "pad-is-eos", "--device", "cpu").code == 3


def test_without_data_the_files_alone_are_read(healthy: Path, native: Path, tmp_path: Path) -> None:
    for folder in (healthy, native):
        found = diagnosed(command("doctor", folder, "--json"))
        assert codes(found) == ["unknown-words"]  # they know the words of a made-up world alone
        assert found["skipped"] == ["no score was computed: give --data FILE"]
        assert command("doctor", folder, "--allow", "unknown-words").code == 0
    fault = planted.FAULTS["the head is not in the weights"]
    folder = planted.write_planted(fault, tmp_path / "model", healthy)
    assert codes(diagnosed(command("doctor", folder, "--json"))) == ["head-missing", "unknown-words"]


def test_rows_are_limited(healthy: Path, pairs: Path) -> None:
    found = diagnosed(command("doctor", healthy, "--data", pairs, "--rows", "2", "--json", "--device", "cpu"))
    assert found["conversations"] == 4
    assert found["variants"][0]["drift"]["pairs"] == 2


def test_a_changed_native_folder_does_not_load(native: Path, pairs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "changed"
    planted.shutil.copytree(native, folder)
    data = bytearray((folder / "mixture-0.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "mixture-0.safetensors").write_bytes(bytes(data))
    for more in ((), ("--data", pairs)):
        found = diagnosed(command("doctor", folder, *more, "--json", "--device", "cpu"))
        assert codes(found) == ["does-not-load"]
        assert "sha256" in found["findings"][0]["measured"]


# --- servers


@pytest.mark.parametrize("dialect", ["facetrm", "vLLM", "OpenRLHF"])
def test_a_healthy_server_has_no_finding(dialect: str, healthy: Path, pairs: Path) -> None:
    with servers.served(healthy, dialect=dialect) as url:
        said = command("doctor", url, "--data", pairs, "--against", healthy, "--json", "--device", "cpu")
    found = diagnosed(said)
    assert said.code == 0
    assert (found["findings"], found["kind"]) == ([], f"server of {dialect}")
    assert [line["verdict"] for line in found["variants"]] == ["agrees"] * 4


@pytest.mark.parametrize("name", [name for name, (code, _) in servers.SERVERS.items() if code])
def test_a_faulty_server_is_found(name: str, healthy: Path, pairs: Path) -> None:
    with servers.served(healthy, fault=name) as url:
        said = command("doctor", url, "--data", pairs, "--against", healthy, "--json", "--device", "cpu")
    assert said.code == 3
    assert servers.SERVERS[name][0] in codes(diagnosed(said))


def test_the_culprit_is_the_mistake_that_gives_the_servers_rewards(healthy: Path, pairs: Path) -> None:
    with servers.served(healthy, fault="double BOS") as url:
        said = command("doctor", url, "--data", pairs, "--against", healthy, "--json", "--device", "cpu")
    (finding,) = diagnosed(said)["findings"]
    assert (finding["code"], finding["culprit"]) == (
        "server-drift",
        "it gives the same rewards as the reading 'double BOS'",
    )


def test_a_server_alone_is_probed_too(healthy: Path, pairs: Path) -> None:
    with servers.served(healthy, fault="cuts the beginning") as url:
        found = diagnosed(command("doctor", url, "--data", pairs, "--json"))
    assert codes(found) == ["server-truncates"]
    assert "truncates at the beginning" in found["findings"][0]["culprit"]
    assert found["skipped"] == ["the rewards were not compared with a local copy: give --against MODEL"]


# --- what cannot be examined


def test_what_is_no_model_is_refused(tmp_path: Path, pairs: Path, healthy: Path) -> None:
    assert_refused(command("doctor", tmp_path / "nothing"), "no such model folder")
    assert_refused(command("doctor", "nobody/nothing"), "nobody/nothing", "Hub")
    assert_refused(command("doctor", healthy, "--allow", "pad-is-eoss"), "no finding 'pad-is-eoss'", "'pad-is-eos'")
    assert_refused(command("doctor", healthy, "--against", healthy), "--against", "the server's URL")
    assert_refused(command("doctor", "http://127.0.0.1:9"), "can only be checked with data", "--data")
    assert_refused(command("doctor", "http://127.0.0.1:9", "--data", pairs), "connection refused", "check the address")
    said = command("doctor", tmp_path)
    assert said.code == 3
    assert "config.json is missing" in " ".join(said.out.split())


def test_a_row_that_cannot_be_read_is_named(healthy: Path, tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "a " * 600}, {"role": "assistant", "content": "b"}]}
    (tmp_path / "long.jsonl").write_text(json.dumps(row) + "\n")
    assert_refused(
        command("doctor", healthy, "--data", tmp_path / "long.jsonl", "--device", "cpu"), "long.jsonl:1", "the limit"
    )


def test_every_code_is_documented_with_its_fix() -> None:
    listed = re.findall(r"^\| `([\w-]+)` \| (.+?) \| (.+) \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert {code: meaning for code, meaning, _ in listed} == dict(CODES)
    assert [code for code, _, _ in listed] == list(CODES)
    assert all(len(fix.split()) > 2 for _, _, fix in listed)
