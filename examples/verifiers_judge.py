"""verifiers and prime-rl: the score of a judge, and the parts that it sums up."""

import asyncio
from types import SimpleNamespace

from facetrm import toy_model
from facetrm.policy import judge_score

score_answer = judge_score(toy_model(), parts=True)  # in earnest: facetrm.load_model("runs/quickstart")


class RewardJudge:  # in earnest: class RewardJudge(vf.Judge)
    """Rates the last reply of a rollout."""

    async def score(self, task, trace):
        """Return each objective's contribution by name."""
        return await score_answer(task, trace)


task = SimpleNamespace(prompt_text="write a program .")
trace = SimpleNamespace(last_reply="two plus two is four .")
print({name: round(value, 3) for name, value in asyncio.run(RewardJudge().score(task, trace)).items()})
