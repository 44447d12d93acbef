"""Train an ArmoRM from lists in memory, on the embedded world with a bag of words in the place of a backbone."""

from facetrm.backbone.words import BagOfWords
from facetrm.data.world import World
from facetrm.recipes.in_memory import fit_armorm

world = World()
ratings, preferences = list(world.ratings(400)), list(world.preferences(300))
held_out = list(world.preferences(100, part="test"))

model = fit_armorm(
    ratings,
    preferences,
    objectives=world.objectives,
    backbone=BagOfWords.fit((r.messages for r in ratings), size=64),
    experts={"ridge": {"folds": 2, "bootstrap": 0, "unfit": "mean"}},
    gate={"settings": {"steps": 50}},
)

chosen, rejected = (model.score([getattr(p, side) for p in held_out]) for side in ("chosen", "rejected"))
right = sum(a.reward > b.reward for a, b in zip(chosen, rejected, strict=True))
print(f"{right} of {len(held_out)} held-out pairs in the right order")
print("most listened to:", max(chosen[0].weights, key=lambda name: chosen[0].weights[name]))
