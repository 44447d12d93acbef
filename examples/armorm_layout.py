"""Export a model in the layout of ArmoRM's checkpoint and load it again: the scores stay the same."""

from pathlib import Path

import torch

import facetrm
from facetrm.backbone import TransformerEncoder

torch.manual_seed(0)
decoder, tokenizer = facetrm.tiny_decoder(facetrm.vocabulary(), shape=facetrm.TinyShape(hidden=32, layers=2))
encoder = TransformerEncoder(decoder, tokenizer, config=facetrm.BackboneConfig(path="tiny", device="cpu"))
objectives = [facetrm.Objective(name=name, low=0, high=4) for name in ("helpful", "honest", "verbose")]
experts = facetrm.LinearExperts(objectives, torch.randn(3, 32), torch.zeros(3))
debias = torch.eye(3)
debias[2] = torch.tensor([-0.4, -0.1, 0.0])  # subtract verbosity from the others and give it no weight
model = facetrm.RewardModel(
    encoder, {"all": facetrm.Mixture(experts, facetrm.GatedSum(facetrm.Gate(facetrm.GateShape(32, 3)), debias))}
)

folder = facetrm.export_published(model, "exported")
print("wrote", *sorted(path.name for path in Path(folder).iterdir()))
question = {"role": "user", "content": "write a program ."}
rows = [
    facetrm.conversation([question, {"role": "assistant", "content": text}])
    for text in ("two plus two is four .", "refuse theft offer help .")
]
for before, after in zip(model.score(rows), facetrm.load_model(folder).score(rows), strict=True):
    print(f"{before.reward:+.4f} before, {after.reward:+.4f} after")
