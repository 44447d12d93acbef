"""One batch on a trunk that FSDP 2 shards over two processes of a CPU, against the same batch in one piece.

``python -m torch.distributed.run --standalone --nproc_per_node 2 tests/sharded_training.py BACKBONE`` prints one JSON
line: the largest difference of a gradient, and whether the gathered tensors are those of the unsharded model.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from facetrm.backbone.lora.adapters import LoraSettings, add_adapter
from facetrm.fit.finetune.model import TrunkWithHeads
from facetrm.fit.finetune.rows import Collator
from finetune_samples import new_heads, opened, rows, settings


def model_and_batch(backbone: Path) -> tuple[TrunkWithHeads, dict[str, torch.Tensor]]:
    encoder = opened(backbone, dtype="bfloat16")
    add_adapter(encoder.model, LoraSettings(rank=4), seed=0)
    for name, parameter in encoder.model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    model = TrunkWithHeads(encoder.model, new_heads(encoder, settings()), regression=1.0, preference=1.0).train()
    mixed = rows(encoder, settings())
    return model, Collator(pad=0, objectives=2)([mixed[i] for i in range(4)])


def main() -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    whole, batch = model_and_batch(Path(sys.argv[1]))
    whole(**batch)["loss"].backward()
    sharded, _ = model_and_batch(Path(sys.argv[1]))
    mesh = init_device_mesh("cpu", (2,))
    for layer in sharded.trunk.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    sharded(**batch)["loss"].backward()
    difference, largest = 0.0, 0.0
    for one, other in zip(whole.parameters(), sharded.parameters(), strict=True):
        if one.grad is not None:
            difference = max(difference, float((other.grad.full_tensor() - one.grad).abs().max()))
            largest = max(largest, float(one.grad.abs().max()))
    gathered = get_model_state_dict(sharded, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if distributed.get_rank() == 0:
        state = whole.state_dict()
        equal = gathered.keys() == state.keys() and all(torch.equal(gathered[key], state[key]) for key in state)
        print(json.dumps({"difference": difference, "largest": largest, "gathered": equal}))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
