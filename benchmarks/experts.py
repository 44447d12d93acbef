"""K adapters on one trunk: the cost of one call against other ways of reading the same rows, in the same run.

    python benchmarks/experts.py                         # on this machine's CPU
    python benchmarks/experts.py --rounds 3 --experts 2 6 --clock processor --threads 1

There are 64 responses of 60 to 140 tokens to 8 prompts of 270 to 330 tokens, and K adapters of rank 16 on the upper
half of a random Llama in float32. The sides take turns; results are medians over the rounds of the ratio of their
times.

    ours         one call: prompts once, the lower half once, the upper half once per adapter
    switching    plain Transformers and PEFT: one adapter after the other, one row at a time
    padded       plain Transformers and PEFT: one adapter after the other, the responses to a prompt in one padded batch
    packed       K trunks with one adapter each, read by the engine: packs and shared prompts, but no shared layers
    stacked      ours, but the upper half once: K copies of a pack in one row, low-rank products batched by adapter

``ours`` and ``stacked`` also read the prompts with the bare trunk; the others do not. Prints a table and writes
benchmarks/results/experts.json.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import LlamaForCausalLM

from decoders import engine_of, ids, llama, padded, row
from facetrm.backbone.lora.adapters import LoraSettings, adapter_tensors, add_adapter
from facetrm.backbone.lora.sharing import SharedLayers
from facetrm.backbone.lora.switching import switched, tuned_layers
from facetrm.backbone.passes.attention import read_packed
from facetrm.backbone.passes.packing import PackedPass, Tree, pack_rows
from facetrm.backbone.text.chat import Tokenized
from facetrm.core.files import write_json
from provenance import provenance
from timing import CLOCKS, in_turns, ratio

ROOT = Path(__file__).resolve().parents[1]


def adapted(experts: int, *, hidden: int, layers: int) -> LlamaForCausalLM:
    """Return a decoder with ``experts`` adapters of random tensors on the upper half of its layers."""
    model = llama(hidden=hidden, layers=layers, heads=hidden // 64, kv=hidden // 64, dtype=torch.float32)
    for number in range(experts):
        name = f"expert-{number}"
        settings = LoraSettings(rank=16, alpha=32.0, layers=f"last {layers // 2}")
        add_adapter(model.model, settings, seed=number, name=name)
        for tensor in adapter_tensors(model.model, name=name).values():
            torch.nn.init.normal_(tensor, std=0.05)
    return model


def rows_of(prompts: int, responses: int) -> list[Tokenized]:
    """Return ``responses`` rows to ``prompts`` prompts."""
    draw = random.Random(0)
    asked = [ids(draw.randint(270, 330), n) for n in range(prompts)]
    return [row(asked[n % prompts], ids(draw.randint(60, 140), 100 + n)) for n in range(responses)]


def by_peft(model: LlamaForCausalLM, names: Sequence[str], read: Callable[[], Tensor]) -> Tensor:
    """Return what ``read`` returns under each adapter, [N, A, D], switched as PEFT does."""
    found = []
    layers = [layer for _, layer in tuned_layers(model.model)]
    for name in names:
        for layer in layers:
            layer.set_adapter([name], inference_mode=True)
        found.append(read())
    for layer in layers:
        layer.set_adapter([], inference_mode=True)
    return torch.stack(found, dim=1)


def one_by_one(model: LlamaForCausalLM, rows: Sequence[Tokenized]) -> Tensor:
    """Return the last states [N, D], one row per forward pass."""
    read = [model.model(input_ids=torch.tensor([r.ids]), use_cache=False).last_hidden_state[0, -1] for r in rows]
    return torch.stack(read)


def in_batches(model: LlamaForCausalLM, rows: Sequence[Tokenized], prompts: int) -> Tensor:
    """Return the last states [N, D], with the responses to each prompt in one padded batch."""
    found = [padded(model, [r.ids for r in rows[start::prompts]]) for start in range(prompts)]
    return torch.stack(found, dim=1).flatten(0, 1)


def single(model: LlamaForCausalLM, name: str, *, layers: int) -> LlamaForCausalLM:
    """Return a decoder with the same weights in which the adapter ``name`` of ``model`` is always active."""
    config = model.config
    heads = config.num_attention_heads
    other = llama(hidden=config.hidden_size, layers=layers, heads=heads, kv=heads, dtype=torch.float32)
    add_adapter(other.model, LoraSettings(rank=16, alpha=32.0, layers=f"last {layers // 2}"), seed=0)
    tensors = adapter_tensors(model.model, name=name)
    for key, tensor in adapter_tensors(other.model).items():
        tensor.copy_(tensors[key])
    return other


@contextmanager
def stacked_layers(model: LlamaForCausalLM, names: Sequence[str]) -> Iterator[None]:
    """Let each adapted layer read K concatenated copies of a row, each with its own adapter."""
    layers = [layer for _, layer in tuned_layers(model.model) if isinstance(layer, LoraLayer)]
    try:
        for layer in layers:
            down_KIR = torch.stack([layer.lora_A[name].weight.T for name in names])
            up_KRO = torch.stack([layer.lora_B[name].weight.T * layer.scaling[name] for name in names])

            def forward(
                x_1SI: Tensor, *, _layer: Any = layer, _down: Tensor = down_KIR, _up: Tensor = up_KRO
            ) -> Tensor:
                base_KTO = _layer.base_layer(x_1SI).view(len(_down), -1, _up.shape[-1])
                low_KTR = x_1SI.view(len(_down), -1, x_1SI.shape[-1]) @ _down
                return torch.baddbmm(base_KTO, low_KTR, _up).view(1, -1, _up.shape[-1])

            layer.forward = forward
        yield
    finally:
        for layer in layers:
            del layer.forward


def stacked(model: LlamaForCausalLM, rows: Sequence[Tokenized], names: Sequence[str], *, share: int) -> Tensor:
    """Return the last states [N, A, D], the layers from ``share`` on in one pass for all adapters."""
    found_NAD = torch.empty(len(rows), len(names), model.config.hidden_size)
    for pack in pack_rows([r.ids for r in rows], [r.prompt_end + 1 for r in rows], token_budget=8192, enough=1024):
        shared, prompts, size = SharedLayers(model.model, share), pack.prompts(), len(pack.ids)
        several = _copies(pack, len(names))
        with switched(model.model, None):
            shared.below(lambda layers, p=pack: read_packed(model.model, p, layers=layers))
            shared.above(lambda layers, p=prompts[0]: read_packed(model.model, p, layers=layers), tokens=prompts[1])
        with stacked_layers(model, names):
            tokens = [*range(size)] * len(names)
            hidden_SD = shared.above(
                lambda layers, p=several: read_packed(model.model, p, layers=layers), tokens=tokens
            )
        found_NAD[pack.rows] = hidden_SD.view(len(names), size, -1)[:, pack.lasts].transpose(0, 1)
    return found_NAD


def _copies(pack: PackedPass, times: int) -> PackedPass:
    size = len(pack.ids)
    trees = []
    for start in range(0, times * size, size):
        for tree in pack.trees:
            tails = tuple((a + start, b + start) for a, b in tree.tails)
            trees.append(Tree(tree.start + start, tree.stop + start, tails))
    return PackedPass(pack.ids * times, pack.positions * times, tuple(trees), pack.rows, pack.ends, pack.lasts)


@torch.no_grad()
def compare(experts: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return seconds, ratios and differences of all sides for ``experts`` adapters."""
    model = adapted(experts, hidden=options.hidden, layers=options.layers)
    rows, names = rows_of(options.prompts, options.responses), [f"expert-{n}" for n in range(experts)]
    engine = engine_of(model)
    singles = [engine_of(single(model, name, layers=options.layers)) for name in names]
    sides: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: engine.read_adapted(rows, lambda *_: None, adapters=names)[1],
        "switching": lambda: by_peft(model, names, lambda: one_by_one(model, rows)),
        "padded": lambda: by_peft(model, names, lambda: in_batches(model, rows, options.prompts)),
        "packed": lambda: torch.stack([one.read(rows, lambda *_: None)[1] for one in singles], dim=1),
        "stacked": lambda: stacked(model, rows, names, share=options.layers // 2),
    }
    read: dict[str, Tensor] = {}
    timed = {name: partial(_kept, read, name, side) for name, side in sides.items() if name not in options.without}
    seconds = in_turns(timed, rounds=options.rounds, clock=options.clock)
    assert engine._shares == {options.layers // 2: True}, "the lower half is shared"
    prompts = {r.ids[: r.prompt_end + 1] for r in rows}
    found: dict[str, Any] = {"tokens, each prompt once": sum(map(len, prompts)) + sum(r.length for r in rows)}
    found["two adapters differ by"] = float((read["ours"][:, 0] - read["ours"][:, -1]).abs().max())
    for name in list(timed)[1:]:
        one = ratio(seconds, ours="ours", theirs=name)
        found[f"{name}: largest difference"] = float((read[name] - read["ours"]).abs().max())
        found |= {"ours: seconds": one["ours"], f"{name}: seconds": one["theirs"]}
        found |= {f"{name}: times ours": one["ratio"], f"{name}: worst": one["worst"]}
    return found


def _kept(read: dict[str, Tensor], name: str, side: Callable[[], Tensor]) -> None:
    read[name] = side()


def main() -> None:
    """Run it for each number of experts, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, nargs="+", default=[6])
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--responses", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without", nargs="*", default=[], help="sides to leave out")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "experts.json")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="what counts as a second")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results: dict[str, Any] = {**provenance(), "threads": options.threads, "clock": options.clock}
    results |= {"hidden": options.hidden, "layers": options.layers, "prompts": options.prompts}
    results |= {"responses": options.responses, "rounds": options.rounds}
    for experts in options.experts:
        results[f"{experts} experts"] = compare(experts, options)
        for key, value in results[f"{experts} experts"].items():
            print(f"{experts:3} {key:34} {value:12.5g}", flush=True)
        write_json(options.out, results)


if __name__ == "__main__":
    main()
