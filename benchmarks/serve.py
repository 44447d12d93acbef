"""`facetrm serve` beside a plain app: throughput with many clients, latency at half load, and minutes of overload.

    python benchmarks/serve.py
    python benchmarks/serve.py --rounds 1 --seconds 5 --overload 10 --out small.json     # does it run at all

The model is the shipped model `desk` (SmolLM2-135M-Instruct in bfloat16, one gate). A request is a pair: a prompt with
two answers of the desk, at most --tokens tokens each. The plain app is FastAPI with one forward for each request: both
answers in one padded batch, Transformers' forward, then the same mixture. Its endpoint is either `async def`, so that
requests are answered one by one (`plain`), or `def`, which FastAPI runs in a pool of threads (`plain, threads`).
Offline is `RewardModel.score` on many pairs in this process, while the servers are idle. Client and servers share the
cores.

Throughput is closed-loop: --clients clients, each sends its next pair as soon as it has an answer. Latency and overload
are open-loop: requests arrive by a Poisson process at half of the throughput and at twice of it, and the time counts
from the arrival. Every answer is compared with the offline score: to the bit in exact mode, otherwise within half a
standard deviation of rewards, because bfloat16 rounds differently in another batch.

Prints a table and writes benchmarks/results/serve.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from facetrm.backbone.encoder import LAST, Features
from facetrm.backbone.transformer import TransformerEncoder
from facetrm.core.errors import ModelError
from facetrm.core.files import write_json
from facetrm.core.web.address import read_address
from facetrm.core.web.client import HttpClient, RequestError
from facetrm.data.desk.desk import Desk
from facetrm.data.records import Conversation, Message
from facetrm.hub.load import load_model
from facetrm.model.reward_model import RewardModel
from provenance import provenance

RESULTS: Final = Path(__file__).resolve().parent / "results" / "serve.json"
MODEL: Final = "desk"
TOLERANCE: Final = 0.5  # standard deviations of rewards; another pair's rewards are 1.1 away on average


class Pair(BaseModel):
    """A request to the plain app."""

    prompt: str
    responses: list[str]


def plain_app(model: RewardModel, *, threads: bool) -> FastAPI:
    """Return an app with one forward for each request."""
    encoder = model.encoder
    assert isinstance(encoder, TransformerEncoder)
    trunk, layers, app = encoder.model, model.layers, FastAPI()

    @torch.inference_mode()
    def rewards(body: Pair) -> dict[str, Any]:
        rows = [encoder.tokenize(talk(body.prompt, answer)) for answer in body.responses]
        longest, several = max(len(row.ids) for row in rows), torch.arange(len(rows))
        ids_NL = torch.tensor([[*row.ids, *[encoder.pad] * (longest - len(row.ids))] for row in rows])
        mask_NL = torch.tensor([[1] * len(row.ids) + [0] * (longest - len(row.ids)) for row in rows])
        read = trunk(input_ids=ids_NL, attention_mask=mask_NL, use_cache=False, output_hidden_states=True)
        states = [read.last_hidden_state if layer == LAST else read.hidden_states[layer] for layer in layers]
        tokens_N, ends_N = torch.tensor([len(row.ids) for row in rows]), torch.tensor([row.prompt_end for row in rows])
        features = Features(
            prompt_ND=read.last_hidden_state[several, ends_N].float(),
            response_NAD=torch.stack([state_NLD[several, tokens_N - 1] for state_NLD in states], dim=1).float(),
            length_N=torch.tensor([row.length for row in rows]),
            tokens_N=tokens_N,
            truncated_N=torch.zeros(len(rows), dtype=torch.bool),
            layers=layers,
        )
        return {"scores": [{"reward": one.reward} for one in model.score_features(features)]}

    if threads:

        @app.post("/v1/rewards")
        def in_threads(body: Pair) -> dict[str, Any]:
            return rewards(body)

    else:

        @app.post("/v1/rewards")
        async def one_by_one(body: Pair) -> dict[str, Any]:
            return rewards(body)

    return app


def talk(prompt: str, answer: str) -> Conversation:
    """Return a conversation of one turn."""
    return (Message(role="user", content=prompt), Message(role="assistant", content=answer))


@dataclass(frozen=True)
class Pairs:
    """Requests with the rewards that they should get."""

    bodies: list[dict[str, Any]]
    rewards_N2: list[tuple[float, float]]
    deviation: float

    def difference(self, number: int, got: Sequence[float]) -> float:
        """Return the largest difference from the offline rewards of a request, in standard deviations of rewards."""
        known = self.rewards_N2[number % len(self.bodies)]
        return max(abs(a - b) for a, b in zip(got, known, strict=True)) / self.deviation


@dataclass
class Tally:
    """What a load has seen."""

    statuses: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    differences: list[float] = field(default_factory=list)
    wrong: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return counts and the quantiles of latency in milliseconds."""
        named = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
        times = {k: 1000 * float(np.quantile(self.seconds, q)) for k, q in named.items()} if self.seconds else {}
        apart = {"mean": float(np.mean(self.differences)), "largest": max(self.differences)} if self.differences else {}
        counts = {"statuses": dict(self.statuses), "wrong": self.wrong}
        return {**counts, "difference_in_deviations": apart, "milliseconds": times}


@dataclass
class Target:
    """A server that is loaded."""

    name: str
    process: subprocess.Popen[bytes]
    client: HttpClient
    exact: bool = False

    @property
    def memory(self) -> float:
        """Resident memory in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        return int(found.group(1)) / 1024 if found else 0.0


async def send(target: Target, pairs: Pairs, number: int, tally: Tally, since: float) -> None:
    """Send one request, and count what came back."""
    try:
        reply = await target.client.send("/v1/rewards", pairs.bodies[number % len(pairs.bodies)])
    except RequestError as exc:
        tally.statuses[exc.kind] += 1
        return
    tally.statuses[str(reply.status)] += 1
    if reply.status == 200:
        tally.seconds.append(time.perf_counter() - since)
        got = [score["reward"] for score in reply.json()["scores"]]
        tally.differences.append(pairs.difference(number, got))
        tally.wrong += tally.differences[-1] > (0.0 if target.exact else TOLERANCE)


def closed_loop(target: Target, pairs: Pairs, *, clients: int, seconds: float) -> tuple[float, Tally]:
    """Return requests per second of clients that wait for their answers, and what they saw."""
    tally, numbers = Tally(), iter(range(10**9))
    start = time.perf_counter()

    async def one() -> None:
        while time.perf_counter() - start < seconds:
            await send(target, pairs, next(numbers), tally, time.perf_counter())

    async def work() -> None:
        await asyncio.gather(*(one() for _ in range(clients)))

    asyncio.run(work())
    return sum(tally.statuses.values()) / (time.perf_counter() - start), tally


async def each_second(call: Callable[[], object]) -> None:
    """Call a function each second, until this task is cancelled."""
    while True:
        call()
        await asyncio.sleep(1.0)


def open_loop(
    target: Target, pairs: Pairs, *, rate: float, seconds: float, watch: Callable[[], object] = lambda: None
) -> Tally:
    """Return what requests saw that arrive by a Poisson process, ``rate`` per second."""
    tally, chance = Tally(), random.Random(0)

    async def work() -> None:
        start, due, number, waiting = time.perf_counter(), 0.0, 0, set[asyncio.Task[None]]()
        watching = asyncio.create_task(each_second(watch))
        while due < seconds:
            await asyncio.sleep(max(0.0, start + due - time.perf_counter()))
            task = asyncio.create_task(send(target, pairs, number, tally, start + due))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
            number, due = number + 1, due + chance.expovariate(rate)
        watching.cancel()
        await asyncio.gather(*waiting)

    asyncio.run(work())
    return tally


def overload(target: Target, pairs: Pairs, *, rate: float, seconds: float) -> dict[str, Any]:
    """Load a server with more than it can do, and return what it answered and how its memory went."""
    seen: list[float] = []
    tally = open_loop(target, pairs, rate=rate, seconds=seconds, watch=lambda: seen.append(target.memory))
    alive, after = target.process.poll() is None and status_of(target.client, "/health") == 200, Tally()
    asyncio.run(send(target, pairs, 0, after, time.perf_counter()))
    fifths = [float(np.median(part)) for part in np.array_split(seen, 5) if len(part)]
    other = {k: v for k, v in tally.statuses.items() if k not in ("200", "429")}
    return {
        **tally.to_dict(),
        "rate": rate,
        "seconds": seconds,
        "other_answers": other,
        "memory_mib_by_fifth": fifths,
        "alive": alive,
        "right_afterwards": not after.wrong and dict(after.statuses) == {"200": 1},
    }


def status_of(client: HttpClient, path: str) -> int | None:
    """Return the status of a GET; None without an answer."""
    try:
        return asyncio.run(client.send(path)).status
    except RequestError:
        return None


@contextmanager
def started(name: str, command: Sequence[str], *, threads: int, exact: bool = False) -> Iterator[Target]:
    """Start a server, wait until it answers, and stop it at the end of the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen([*command, "--port", str(port)], env=environment, stderr=subprocess.DEVNULL) as process:
        client = HttpClient(read_address(f"http://127.0.0.1:{port}", place=name, error=ModelError), timeout=120.0)
        try:
            while status_of(client, "/ready") not in (200, 404):  # the plain app has no such route
                if process.poll() is not None:
                    raise SystemExit(f"{name} ended with code {process.returncode}")
                time.sleep(0.2)
            yield Target(name, process, client, exact)
        finally:
            process.terminate()
            process.wait(30)


def make_pairs(model: RewardModel, *, count: int, tokens: int) -> tuple[Pairs, list[Conversation], float]:
    """Return short pairs of the desk with their offline rewards, their conversations, and their mean tokens."""
    encoder = model.encoder
    assert isinstance(encoder, TransformerEncoder)
    bodies, talks, lengths = list[dict[str, Any]](), list[Conversation](), list[int]()
    for pair in Desk().preferences(50 * count):
        prompt, answers = pair.prompt[-1].content, (pair.chosen[-1].content, pair.rejected[-1].content)
        rows = [talk(prompt, answer) for answer in answers]
        sizes = [len(encoder.tokenize(row).ids) for row in rows]
        if max(sizes) <= tokens and pair.prompt == rows[0][:1]:
            bodies.append({"prompt": prompt, "responses": answers})
            talks += rows
            lengths += sizes
        if len(bodies) == count:
            break
    known = [*_two(model, talks)]
    deviation = statistics.stdev(reward for two in known for reward in two)
    return Pairs(bodies, known, deviation), talks, statistics.mean(lengths)


def serve_plain(port: int, *, threads: bool) -> None:
    """Run the plain app until it is stopped."""
    uvicorn.run(plain_app(load_model(MODEL), threads=threads), host="127.0.0.1", port=port, log_level="warning")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Start the servers, load them in turns, and return all figures."""
    torch.set_num_threads(options.threads)
    model, exact_model = load_model(MODEL), load_model(MODEL, mode="exact")
    pairs, talks, mean = make_pairs(model, count=options.pairs, tokens=options.tokens)
    exact_pairs = Pairs(pairs.bodies, [*_two(exact_model, talks)], pairs.deviation)
    here, ours = [sys.executable, __file__], ["facetrm", "serve", MODEL]
    speeds: dict[str, list[float]] = {"offline": []}
    tallies: dict[str, dict[str, Any]] = {}
    with (
        started("facetrm serve", ours, threads=options.threads) as fast,
        started("facetrm serve, exact", [*ours, "--mode", "exact"], threads=options.threads, exact=True) as exact,
        started("plain", [*here, "--plain", "one"], threads=options.threads) as plain,
        started("plain, threads", [*here, "--plain", "threads"], threads=options.threads) as threads,
    ):
        targets = [fast, exact, plain, threads]
        for target in targets:  # warm, unmeasured
            closed_loop(target, _known(target, pairs, exact_pairs), clients=options.clients, seconds=2.0)
        for number in range(options.rounds):
            turn = number % len(targets)
            for target in targets[turn:] + targets[:turn]:
                known = _known(target, pairs, exact_pairs)
                speed, tally = closed_loop(target, known, clients=options.clients, seconds=options.seconds)
                speeds.setdefault(target.name, []).append(speed)
                tallies[target.name] = tally.to_dict()
                if tally.wrong or set(tally.statuses) != {"200"}:
                    raise SystemExit(f"{target.name} answered wrongly: {json.dumps(tally.to_dict())}")
                print(f"round {number}: {target.name:24}{speed:8.1f} pairs/s", flush=True)
            start, part = time.perf_counter(), talks[: 2 * max(64, len(talks) // 8)]
            model.score(part)
            speeds["offline"].append(len(part) / 2 / (time.perf_counter() - start))
            print(f"round {number}: {'offline':24}{speeds['offline'][-1]:8.1f} pairs/s", flush=True)
        middle = {name: statistics.median(found) for name, found in speeds.items()}
        half = {}
        for target in (fast, plain):
            known = _known(target, pairs, exact_pairs)
            rate = middle[target.name] / 2
            half[target.name] = {
                "rate": rate,
                **open_loop(target, known, rate=rate, seconds=4 * options.seconds).to_dict(),
            }
        over = overload(exact, exact_pairs, rate=2 * middle[exact.name], seconds=options.overload)
    return {
        "pairs": len(pairs.bodies),
        "mean_tokens": mean,
        "threads": options.threads,
        "clients": options.clients,
        "pairs_per_second": {name: {"median": middle[name], "rounds": found} for name, found in speeds.items()},
        "ratios": {
            "to the plain app, one by one": _ratio(speeds["facetrm serve"], speeds["plain"]),
            "to the plain app, threads": _ratio(speeds["facetrm serve"], speeds["plain, threads"]),
            "to offline scoring": _ratio(speeds["facetrm serve"], speeds["offline"]),
            "in exact mode to the plain app, one by one": _ratio(speeds["facetrm serve, exact"], speeds["plain"]),
        },
        "answers": tallies,
        "half_load": half,
        "overload": over,
    }


def _two(model: RewardModel, talks: Sequence[Conversation]) -> Iterator[tuple[float, float]]:
    rewards = [one.reward for one in model.score(talks)]
    return zip(rewards[::2], rewards[1::2], strict=True)


def _known(target: Target, pairs: Pairs, exact_pairs: Pairs) -> Pairs:
    return exact_pairs if target.exact else pairs


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {"median": statistics.median(ratios), "worst": min(ratios)}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15.0, help="seconds of each round of each server")
    parser.add_argument("--overload", type=float, default=300.0, help="seconds of overload")
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--plain", choices=("one", "threads"), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        serve_plain(options.port, threads=options.plain == "threads")
        return
    found = {**provenance(), **measure(options)}
    write_json(options.out, found)
    for name, cell in found["ratios"].items():
        print(f"facetrm serve {name}: {cell['median']:.2f} (worst round {cell['worst']:.2f})")
    for name, cell in found["half_load"].items():
        times = cell["milliseconds"]
        print(f"{name} at {cell['rate']:.1f} pairs/s: p50 {times['p50']:.0f} ms, p99 {times['p99']:.0f} ms")
    print(f"overload: {json.dumps(found['overload'])}")


if __name__ == "__main__":
    main()
