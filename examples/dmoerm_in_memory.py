"""Train a DMoERM from lists in memory, with two tasks of the embedded world, a tiny decoder and a simulated judge."""

from facetrm.backbone.tiny import TinyShape, tiny_decoder
from facetrm.backbone.transformer import BackboneConfig, TransformerEncoder
from facetrm.data.world import World, vocabulary
from facetrm.label.simulated import NoisyJudge, label_world, world_rubric
from facetrm.recipes.in_memory import fit_dmoerm

world, tasks = World(), ("chat", "objective_qa")
rubric = world_rubric(least=0.2, most=1, tasks=tasks)
preferences = list(world.preferences_of(tasks, 120, part="gate"))
labelled = label_world(world, 120, judge=NoisyJudge(), rubric=rubric, part="heads")

shape = TinyShape(hidden=16, layers=1, heads=2, inner=32)
decoder, tokenizer = tiny_decoder(vocabulary(), shape=shape, seed=0)
quick = {"trainer": {"max_steps": 2, "per_device_train_batch_size": 8}, "evaluate_every": 2}

model = fit_dmoerm(
    preferences,
    labelled.preferences,
    rubric=rubric,
    backbone=TransformerEncoder(decoder, tokenizer, config=BackboneConfig(path="tiny", device="cpu", dtype="float32")),
    router={"settings": {"steps": 50}},
    lora={"rank": 2},
    linear={"folds": 2},
    base={"training": quick},
    experts={"training": quick},
    aggregator={"concat": {"steps": 20, "hidden": 8}},
)

score = model.score([preferences[0].chosen])[0]
print(f"task {score.task}: reward {score.reward:+.3f} =", score.base, "+", score.contributions)
