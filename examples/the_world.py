"""The generated world: a pair of answers, their ratings, and the true weights that a reward model should recover."""

from facetrm import World, WorldConfig

world = World(WorldConfig(seed=1))
pair = next(world.preferences(1, part="test"))

print(f"task    {pair.task}")
print(f"prompt  {pair.prompt[-1].content}")
for name, answer in (("chosen", pair.chosen), ("rejected", pair.rejected)):
    levels = "  ".join(f"{latent} {level:g}" for latent, level in world.levels(answer).items())
    print(f"\n{name}: true utility {world.utility(answer):.3f}\n  {answer[-1].content}\n  {levels}")
print(f"\nthe label follows the true order: {pair.meta['agrees']}")

weights = sorted(world.weights[pair.task].items(), key=lambda item: -item[1])
print(f"what counts in {pair.task}: " + ", ".join(f"{latent} {weight:.2f}" for latent, weight in weights if weight))

rating = next(world.ratings(1, part="test"))
print(f"\na rater of '{rating.source}' on another answer: {rating.ratings}")

agreed = [pair.meta["agrees"] for pair in world.preferences(2000, part="test")]
print(f"share of labels that follow the true order: {sum(agreed) / len(agreed):.1%}")
