"""Train an ArmoRM from lists in memory, on the embedded world, with a bag of words instead of a backbone."""

from facetrm.backbone.words import BagOfWords
from facetrm.data.world import World
from facetrm.recipes.in_memory import fit_armorm

world = World()
ratings, preferences = list(world.ratings(400)), list(world.preferences(300))

model = fit_armorm(
    ratings,
    preferences,
    objectives=world.objectives,
    backbone=BagOfWords.fit((r.messages for r in ratings), size=64),
    experts={"ridge": {"folds": 2, "bootstrap": 0, "unfit": "mean"}},
    gate={"settings": {"steps": 50}},
)

pair = preferences[0]
chosen, rejected = model.score([pair.chosen, pair.rejected])
print(f"reward {chosen.reward:+.3f} for the chosen answer, {rejected.reward:+.3f} for the rejected one")
print("largest weight:", max(chosen.weights, key=lambda name: chosen.weights[name]))
