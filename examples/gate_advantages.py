"""Group advantages that keep a prompt's gate, beside GDPO's, which cancel it."""

import numpy as np

from facetrm.policy import gdpo_advantages, grouped_advantages

# Three answers each to a question and to a poem. The gate listens to correctness for one and to style for the other.
ratings = np.tile([[0.9, 0.2], [0.5, 0.5], [0.1, 0.8]], (2, 1))
weights = np.repeat([[0.9, 0.1], [0.1, 0.9]], 3, axis=0)
prompts = ["question"] * 3 + ["poem"] * 3

ours = grouped_advantages(ratings, weights, prompts)
gdpo = gdpo_advantages(weights * ratings, prompts)
print("           correct  style   reward     ours     GDPO")
for n, prompt in enumerate(prompts):
    reward = weights[n] @ ratings[n]
    print(f"{prompt:<11}{ratings[n][0]:>7}{ratings[n][1]:>7}{reward:>9.2f}{ours[n]:>+9.2f}{gdpo[n]:>+9.2f}")
