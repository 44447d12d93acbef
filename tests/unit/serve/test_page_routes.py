from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from adapter_models import two_tasks
from facetrm import hub
from facetrm.model.edits import WeightEdit
from facetrm.serve import PageSetup
from facetrm.serve.page import screen
from facetrm.serve.page.browsing import select_questions
from facetrm.serve.page.facts import mixture_body
from gated_models import mixture, model
from page_samples import browsed
from serving import Client, reward_server

ASSETS = Path(screen.__file__).parent / "assets"
PAIR = {"prompt": "how are you ?", "responses": ["fine", "write a poem"]}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models") / "below"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, saved: Path) -> Iterator[Client]:
    backbone = tmp_path_factory.mktemp("backbone") / "tiny"
    setup = PageSetup("a prompt", ("one", "two"), saved, browsed())
    with reward_server(lambda: model(backbone), page=setup) as made:
        yield made


class Tags(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_and_its_files_are_served_with_a_strict_policy(client: Client) -> None:
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert page.status == 200
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    named = [value for _, names in Tags(page.text).tags for key, value in names.items() if key in ("src", "href")]
    files = [name for name in named if name is not None and name.startswith("page/")]
    assert len(files) == 3
    for path in ASSETS.iterdir():
        found = client.get(f"/page/{path.name}")
        assert (found.status, found.text) == (200, path.read_text(encoding="utf-8"))
        assert found.headers["content-security-policy"] == policy
        assert found.headers["x-content-type-options"] == "nosniff"
    assert {f"page/{path.name}" for path in ASSETS.iterdir()} >= set(files)


def test_the_page_holds_no_inline_script_and_no_address_elsewhere() -> None:
    for tag, names in Tags((ASSETS / "index.html").read_text(encoding="utf-8")).tags:
        assert tag != "script" or names.get("src"), "a script without a file"
        assert not any(name.startswith("on") or name == "style" for name in names), (tag, names)
    for path in ASSETS.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|\burl\(", text), path
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            path
        )
        imported = re.findall(r'from "\./([\w.]+)"', text)
        assert all((ASSETS / name).is_file() for name in imported), path


@pytest.mark.parametrize("name", ["../setup.py", "..%2fsetup.py", "%2e%2e/setup.py", "setup.py", "index.html%00", ""])
def test_nothing_else_is_served(client: Client, name: str) -> None:
    assert client.get(f"/page/{name}").status == 404


def test_the_facts_of_a_gated_sum_give_its_rewards(client: Client) -> None:
    facts = client.get("/v1/page").value
    [found] = facts["mixtures"]
    assert (facts["saves"], facts["browses"]) == (True, True)
    assert facts["example"] == {"prompt": "a prompt", "answers": ["one", "two"]}
    [first, _] = client.post("/v1/rewards", PAIR).value["scores"]
    names, matrix = found["names"], found["sum"]["matrix"]
    reward = sum(
        first["weights"][names[k]] * matrix[k][j] * first["scores"][names[j]]
        for k in range(len(names))
        for j in range(len(names))
    )
    assert reward == pytest.approx(first["reward"], abs=1e-5)


def test_a_sum_that_the_weights_do_not_determine_is_left_to_the_server() -> None:
    assert mixture_body("all", mixture(edit=WeightEdit(pin=((0, 0.5),))), set()).sum is None
    assert mixture_body("all", mixture(edit=WeightEdit(scale=((0, 0.0),))), set()).sum is None
    kept = mixture_body("all", mixture(edit=WeightEdit(drop=(1,), scale=((0, 2.0),))), {"objective-3"})
    assert kept.sum is not None
    assert (kept.sum.dropped, kept.sum.factors) == (["objective-1"], [2.0, 1.0, 1.0, 1.0, 1.0])
    assert kept.unproven == ["objective-3"]
    assert all(mixture_body(task, one, set()).sum is None for task, one in two_tasks().mixtures.items())


def test_an_edit_is_saved_as_a_model_with_its_manifest(client: Client, saved: Path) -> None:
    wish = {"objective_weights": {"objective-0": 2.0}, "mask": ["objective-1"]}
    done = client.post("/v1/edited-models", {"name": "kinder", **wish})
    assert done.status == 200, done.text
    assert done.value["folder"] == str(saved / "kinder")
    manifest = json.loads((saved / "kinder" / "manifest.json").read_text())
    assert manifest["provenance"]["edits"] == done.value["edits"]
    assert done.value["edits"] == [
        {"task": "all", "drop": ["objective-1"], "scale": {"objective-0": 2.0}, "pin": {}},
    ]
    loaded = hub.load_model(saved / "kinder", device="cpu")
    assert loaded.hash == done.value["hash"] != done.value["unedited_hash"]
    given = client.post("/v1/rewards", {**PAIR, **wish}).value
    assert given["provenance"]["model_hash"] == loaded.hash
    again = client.post("/v1/edited-models", {"name": "kinder", **wish})
    error = again.value["error"]
    assert (again.status, error["type"], error["code"]) == (409, "conflict", "exists")
    assert hub.load_model(saved / "kinder", device="cpu").hash == loaded.hash


@pytest.mark.parametrize("name", ["", "..", "../out", "a/b", ".hidden", "/tmp/x", "a" * 65, "a\n", "a b", "a.b"])
def test_a_name_that_leaves_the_folder_is_refused(client: Client, saved: Path, name: str) -> None:
    before = sorted(saved.parent.rglob("*"))
    refused = client.post("/v1/edited-models", {"name": name, "mask": ["objective-1"]})
    assert refused.status == 422, refused.text
    assert sorted(saved.parent.rglob("*")) == before


def test_a_model_without_an_edit_is_not_saved(client: Client, saved: Path) -> None:
    refused = client.post("/v1/edited-models", {"name": "same", "objective_weights": {"objective-0": 1.0}})
    assert (refused.status, refused.value["error"]["code"]) == (422, "edit")
    unknown = client.post("/v1/edited-models", {"name": "same", "mask": ["objectve-1"]})
    assert unknown.status == 422
    assert "objective-1" in unknown.value["error"]["fix"]
    assert not (saved / "same").exists()


def test_without_a_folder_nothing_is_saved_or_browsed() -> None:
    with reward_server() as bare:
        refused = bare.post("/v1/edited-models", {"name": "kinder", "mask": ["verbose"]})
        assert refused.status == 403
        assert "--save-folder" in refused.value["error"]["fix"]
        assert bare.get("/v1/browse").value == {"benchmarks": [], "runs": [], "notes": []}
        assert bare.get("/v1/page").value["browses"] is False
        assert bare.get("/v1/browse/questions?benchmark=mine&model=one").status == 404


def test_questions_come_by_kind_and_certainty(client: Client) -> None:
    listed = client.get("/v1/browse").value
    assert listed["benchmarks"][0]["questions"] == 24
    assert listed["runs"] == browsed()["runs"]
    asked = "/v1/browse/questions?benchmark=mine&model=one"
    errors = client.get(f"{asked}&kind=errors").value
    assert (errors["total"], [row["id"] for row in errors["questions"]]) == (8, [f"q{n}" for n in range(21, -1, -3)])
    apart = client.get(f"{asked}&other=two&kind=disagreements&limit=3&offset=1").value
    wrong = [n for n in range(23, -1, -1) if (n % 3 == 0) != (n % 4 == 0)]
    assert apart["total"] == len(wrong)
    assert [row["id"] for row in apart["questions"]] == [f"q{n}" for n in wrong[1:4]]
    assert client.get(f"{asked}&kind=all").value["total"] == 24


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("benchmark=mine&model=three", 404),
        ("benchmark=../mine&model=one", 404),
        ("benchmark=mine&model=one&other=three", 404),
        ("benchmark=mine&model=one&kind=disagreements", 422),
        ("benchmark=mine&model=one&kind=secrets", 422),
        ("benchmark=mine&model=one&limit=1000", 422),
        ("benchmark=mine", 422),
    ],
)
def test_a_malformed_query_is_refused(client: Client, query: str, status: int) -> None:
    refused = client.get(f"/v1/browse/questions?{query}")
    assert refused.status == status
    assert refused.value["error"]["message"]


def test_a_failed_question_is_no_error_and_comes_last() -> None:
    part = browsed()["benchmarks"][0]
    part["questions"][3]["sides"]["one"] |= {"verdict": "failed", "margin": None}
    assert "q3" not in [row["id"] for row in select_questions(part, "one", None, "errors")]
    assert select_questions(part, "one", None, "all")[-1]["id"] == "q3"
