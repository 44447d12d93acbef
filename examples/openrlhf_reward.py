"""OpenRLHF: --reward.remote_url openrlhf_reward.py, a file with a function reward_func."""

from facetrm import toy_model
from facetrm.policy import openrlhf_reward

reward_func = openrlhf_reward(toy_model())  # in earnest: facetrm.load_model("runs/quickstart")

if __name__ == "__main__":
    prompt = "<|im_start|>user\nwrite a program .<|im_end|>\n<|im_start|>assistant\n"
    for answer in ("two plus two is four .<|im_end|>", "refuse theft offer help .<|im_end|>", "<|im_end|>"):
        found = reward_func(queries=[prompt + answer], prompts=[prompt], labels=[None])
        logs = {name: round(float(values[0]), 3) for name, values in found["extra_logs"].items()}
        print(f"reward {float(found['rewards'][0]):+.3f}  score {float(found['scores'][0]):.3f}  {logs}")
