"""A model out in the layout of ArmoRM's checkpoint, and in again: the scores stay."""

from pathlib import Path

import torch

from facetrm import Gate, GatedSum, LinearExperts, Mixture, Objective, RewardModel, conversation, load_model
from facetrm.backbone.tiny import TinyShape, tiny_decoder
from facetrm.backbone.transformer import BackboneConfig, TransformerEncoder
from facetrm.data.world import vocabulary
from facetrm.hub.export import export_published
from facetrm.model.gate import GateShape

torch.manual_seed(0)
decoder, tokenizer = tiny_decoder(vocabulary(), shape=TinyShape(hidden=32, layers=2))
encoder = TransformerEncoder(decoder, tokenizer, config=BackboneConfig(path="tiny", device="cpu"))
objectives = [Objective(name=name, low=0, high=4) for name in ("helpful", "honest", "verbose")]
experts = LinearExperts(objectives, torch.randn(3, 32), torch.zeros(3))
debias = torch.eye(3)
debias[2] = torch.tensor([-0.4, -0.1, 0.0])  # verbosity is taken out of the others and has no say of its own
model = RewardModel(encoder, {"all": Mixture(experts, GatedSum(Gate(GateShape(32, 3)), debias))})

folder = export_published(model, "exported")
print("wrote", *sorted(path.name for path in Path(folder).iterdir()))
question = {"role": "user", "content": "write a program ."}
rows = [
    conversation([question, {"role": "assistant", "content": text}])
    for text in ("two plus two is four .", "refuse theft offer help .")
]
for before, after in zip(model.score(rows), load_model(folder).score(rows), strict=True):
    print(f"{before.reward:+.4f} before, {after.reward:+.4f} after")
