"""verl: a reward function that returns a dict, and the advantages that keep the gate.

Give this file as reward.custom_reward_function.path, with reward.reward_manager.name=gdpo, adv_estimator=gdpo, and
VERL_USE_EXTERNAL_MODULES naming a module that calls facetrm.policy.register_verl_advantages().
"""

import numpy as np
import torch

from facetrm import toy_model
from facetrm.policy import verl_advantages, verl_compute_score

compute_score = verl_compute_score(toy_model())  # in earnest: facetrm.load_model("runs/quickstart")

if __name__ == "__main__":
    row = {"prompt": [{"role": "user", "content": "write a program ."}]}
    answers = ("two plus two is four .", "refuse theft offer help .", " ")
    rows = [compute_score("desk", answer, None, extra_info=row) for answer in answers]
    print("keys of every row:", *rows[0])
    columns = {key: np.array([found[key] for found in rows]) for key in rows[0]}
    zeros, ones = torch.zeros(3, 2), torch.ones(3, 2)
    advantages, _ = verl_advantages(zeros, ones, index=["first prompt"] * 3, non_tensor_batch=columns)
    for answer, found, value in zip(answers, rows, advantages[:, 0].tolist(), strict=True):
        print(f"{answer!r:<30} score {found['score']:+.3f}  failed {found['failed']:.0f}  advantage {value:+.3f}")
