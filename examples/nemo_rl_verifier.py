"""NeMo-RL: the reward fields of a NeMo Gym verifier, whose components sum to the reward."""

from facetrm import toy_model
from facetrm.policy import nemo_verifier

nemo_fields = nemo_verifier(toy_model())  # in earnest: facetrm.load_model("runs/quickstart")

# In the resources server: return MyVerifyResponse(**body.model_dump(), **nemo_fields(prompt, response))
fields = nemo_fields([{"role": "user", "content": "write a program ."}], "two plus two is four .")
for name, value in fields["reward_components"].items():
    print(f"reward/{name:<8} {value:+.4f}")
print(f"reward          {fields['reward']:+.4f}   failed: {fields['failed']}")
print(nemo_fields("write a program .", " ")["reason"])
