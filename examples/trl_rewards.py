"""TRL: a reward column per objective for one pass of the model, and one column of advantages that keep the gate."""

from facetrm import toy_model
from facetrm.policy import trl_advantages, trl_reward, trl_rewards

model = toy_model()  # in earnest: facetrm.load_model("runs/quickstart")
combined = trl_reward(model)  # GRPOTrainer(reward_funcs=combined, ...)
columns = trl_rewards(model)  # GRPOConfig(multi_objective_aggregation="normalize_then_sum")
advantages = trl_advantages(model)  # GRPOConfig(scale_rewards="none")

# What GRPOTrainer does with them after each generation: four answers to one prompt, the last one blank.
prompts = [[{"role": "user", "content": "write a program ."}]] * 4
answers = ["two plus two is four .", "refuse theft offer help .", "two plus two is five .", " "]
completions = [[{"role": "assistant", "content": text}] for text in answers]

for column in (combined, *columns, advantages):
    values = column(prompts=prompts, completions=completions)
    print(f"{column.__name__:<10}", *("    none" if value is None else f"{value:+8.3f}" for value in values))
