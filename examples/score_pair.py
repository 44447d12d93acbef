"""A reward model put together by hand: a small untrained decoder, ridge heads, a gate that weighs all heads alike."""

from facetrm.backbone.tiny import TinyShape, tiny_decoder
from facetrm.backbone.transformer import BackboneConfig, TransformerEncoder
from facetrm.data.objectives import label_matrix
from facetrm.data.world import World, vocabulary
from facetrm.explain.edits import edit
from facetrm.explain.local import explain_pair
from facetrm.fit.heads.ridge import RidgeConfig, fit_linear_experts
from facetrm.model.aggregate import GatedSum
from facetrm.model.gate import Gate, GateShape
from facetrm.model.mixture import Mixture
from facetrm.model.reward_model import RewardModel

world = World()
decoder, tokenizer = tiny_decoder(vocabulary(), shape=TinyShape(hidden=32, layers=2))
encoder = TransformerEncoder(decoder, tokenizer, config=BackboneConfig(path="tiny"))

ratings = list(world.ratings(400))
experts = fit_linear_experts(
    encoder.encode([rating.messages for rating in ratings]),
    label_matrix(ratings, world.objectives),
    objectives=world.objectives,
    groups=[rating.prompt_key for rating in ratings],
    config=RidgeConfig(folds=3, bootstrap=0),
).experts
even = Gate(GateShape(encoder.hidden_size, len(experts.names), hidden=0, n_hidden=0))
model = RewardModel(encoder, {"all": Mixture(experts, GatedSum(even))})

pair = next(world.preferences(1, part="test"))
chosen, rejected = model.score([pair.chosen, pair.rejected])
explained = explain_pair(chosen, rejected)
print(f"margin {explained.margin:+.4f} = the sum of {len(explained.lines)} differences, of which the largest are")
for line in explained.lines[:4]:
    print(f"  {line.objective:<28}{line.difference:+.4f}")
silent = edit(model, drop=[world.verbosity_objective])
print(
    "margin without verbosity:",
    round(silent.score([pair.chosen])[0].reward - silent.score([pair.rejected])[0].reward, 4),
)
