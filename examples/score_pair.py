"""Build a reward model by hand: a small untrained decoder, ridge heads, and a gate with equal weights."""

import facetrm
from facetrm.backbone import TransformerEncoder

world = facetrm.World()
decoder, tokenizer = facetrm.tiny_decoder(facetrm.vocabulary(), shape=facetrm.TinyShape(hidden=32, layers=2))
encoder = TransformerEncoder(decoder, tokenizer, config=facetrm.BackboneConfig(path="tiny"))

ratings = list(world.ratings(400))
experts = facetrm.fit_linear_experts(
    encoder.encode([rating.messages for rating in ratings]),
    facetrm.label_matrix(ratings, world.objectives),
    objectives=world.objectives,
    groups=[rating.prompt_key for rating in ratings],
    config=facetrm.RidgeConfig(folds=3, bootstrap=0),
).experts
even = facetrm.Gate(facetrm.GateShape(encoder.hidden_size, len(experts.names), hidden=0, n_hidden=0))
model = facetrm.RewardModel(encoder, {"all": facetrm.Mixture(experts, facetrm.GatedSum(even))})

pair = next(world.preferences(1, part="test"))
explained = facetrm.explain_pair(model, pair.chosen, pair.rejected)
print(f"margin {explained.margin:+.4f} is the sum of {len(explained.lines)} differences; the largest are")
for line in explained.lines[:4]:
    print(f"  {line.objective:<28}{line.difference:+.4f}")
silent = facetrm.edit(model, drop=[world.verbosity_objective])
print(
    "margin without verbosity:",
    round(silent.score([pair.chosen])[0].reward - silent.score([pair.rejected])[0].reward, 4),
)
