from __future__ import annotations

import stat
from pathlib import Path

import pytest

from command_line import assert_refused, command
from facetrm.core.errors import ConfigError
from facetrm.serve import RewardHttpServer, ServeConfig
from facetrm.serve.keys import KeyRing, KnownKey, key_digest, read_known_keys, write_key
from serving import exact_toy, reward_server


def test_a_new_key_opens_the_door_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    one, other = write_key(path, "trainer"), write_key(path, "page")
    assert one != other
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert one not in path.read_text()
    keys = read_known_keys(path)
    ring = KeyRing(keys, rate=0)
    assert [key.name for key in keys] == ["trainer", "page"]
    assert ring.holder(f"Bearer {other}") == keys[1]
    assert ring.holder(f"bearer  {one} ") == keys[0]
    for wrong in ("", one, f"Basic {one}", f"Bearer {one}x", "Bearer", f"Bearer {keys[0].digest}"):
        assert ring.holder(wrong) is None


@pytest.mark.parametrize(
    "line",
    ["trainer the-key-itself", "trainer sha256:abc", "two words sha256:" + "0" * 64, f"a sha256:{'0' * 64} fast"],
)
def test_a_malformed_line_is_refused_without_showing_it(line: str, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# comment\n\n{line}\n")
    with pytest.raises(ConfigError, match=r"keys:3: the line is not") as refused:
        read_known_keys(path)
    assert "the-key-itself" not in str(refused.value)


def test_names_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_known_keys(path)
    write_key(path, "a")
    with pytest.raises(ConfigError, match="there is a key named 'a'"):
        write_key(path, "a")
    with pytest.raises(ConfigError, match="cannot be the name"):
        write_key(path, "two words")
    path.write_text("# nothing\n")
    with pytest.raises(ConfigError, match="no key in the file"):
        read_known_keys(path)
    path.write_text(f"a sha256:{'0' * 64}\na sha256:{'1' * 64}\n")
    with pytest.raises(ConfigError, match="two keys have one name"):
        read_known_keys(path)


def test_a_rate_is_a_bucket_for_each_key() -> None:
    now = [0.0]
    slow, fast = KnownKey("slow", "0", rate=2), KnownKey("fast", "1")
    ring = KeyRing([slow, fast], rate=0, clock=lambda: now[0])
    assert [ring.wait(slow) for _ in range(3)] == [0.0, 0.0, 30.0]
    assert [ring.wait(fast) for _ in range(100)] == [0.0] * 100
    now[0] = 29.0
    assert ring.wait(slow) == pytest.approx(1.0)
    now[0] = 30.0
    assert ring.wait(slow) == 0.0
    assert ring.wait(slow) == pytest.approx(30.0)
    assert KeyRing([], rate=1).wait(None) == 0.0


def test_the_server_asks_for_keys(tmp_path: Path) -> None:
    body = {"prompt": "how are you ?", "responses": ["fine"]}
    keys = [KnownKey("one", key_digest("first"), rate=3), KnownKey("two", key_digest("second"))]
    with reward_server(keys=keys) as client:
        for path in ("/v1/models", "/metrics", "/openapi.json", "/nothing"):
            assert client.get(path).status == 401, path
        refused = client.post("/v1/rewards", body)
        assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert client.post("/v1/rewards", body, Authorization="Bearer third").status == 401
        assert client.get("/health").status == client.get("/ready").status == 200
        known = [client.post("/v1/rewards", body, Authorization="Bearer first") for _ in range(5)]
        assert [reply.status for reply in known] == [200, 200, 200, 429, 429]
        assert 1 <= int(known[-1].headers["retry-after"]) <= 20
        assert known[-1].value["error"]["code"] == "rate"
        assert client.post("/v1/rewards", body, Authorization="Bearer second").status == 200


def test_other_machines_need_a_key_or_an_explicit_word() -> None:
    def made(*keys: KnownKey, **settings: bool) -> RewardHttpServer:  # it listens only when it runs
        return RewardHttpServer(exact_toy, config=ServeConfig(**settings), name="toy", host="0.0.0.0", keys=keys)

    with pytest.raises(ConfigError, match=r"at 0\.0\.0\.0 other machines could use the server without a key"):
        made()
    made(insecure=True)
    made(KnownKey("one", key_digest("first")))


def test_the_command_writes_keys_and_refuses_an_open_door(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    said = command("serve", "--keys", path, "--new-key", "me")
    assert said.code == 0
    ring = KeyRing(read_known_keys(path), rate=0)
    assert ring.holder(f"Bearer {said.out.strip()}") is not None
    assert_refused(command("serve", "--new-key", "me"), "--new-key", "give --keys FILE")
    assert_refused(command("serve"), "no model")
    assert_refused(command("serve", tmp_path / "none"), "no such model folder")
    assert_refused(command("serve", "desk", "--host", "0.0.0.0"), "without a key")
    assert_refused(command("serve", "desk", "--set", "max_queue=3"), "unknown setting 'max_queue'", "serve.max_queue")
    assert_refused(command("serve", "desk", "--set", "serve.max_que=3"), "unknown setting 'max_que'")
    assert_refused(command("serve", "desk", "--set", "serve.max_answers=3000"), "above max_queue")
