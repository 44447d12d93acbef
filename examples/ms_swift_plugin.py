"""ms-swift: a file for --external_plugins, with --reward_funcs reward or one name per objective."""

from facetrm import toy_model
from facetrm.policy import swift_orms

rewards = swift_orms(toy_model())  # in earnest: facetrm.load_model("runs/quickstart")
try:
    from swift.rewards import orms

    orms.update(rewards)
except ModuleNotFoundError:
    orms = {**rewards}

if __name__ == "__main__":
    user = {"role": "user", "content": "write a program ."}
    completions = ["two plus two is four .", "refuse theft offer help .", " "]
    messages = [[user, {"role": "assistant", "content": text}] for text in completions]
    for name, kind in rewards.items():
        print(f"{name:<10}", *(f"{value:+.3f}" for value in kind()(completions=completions, messages=messages)))
