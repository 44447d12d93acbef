"""distilabel: the process of a step that scores rows, with the reasons where there is no score."""

from facetrm import toy_model
from facetrm.policy import distilabel_step

process = distilabel_step(toy_model())  # in earnest: facetrm.load_model("runs/quickstart")
# from distilabel.steps import step
# ScoreStep = step(inputs=["instruction", "response"], outputs=["score", "contributions", "reason"])(process)

rows = [
    {"instruction": "write a program .", "response": "two plus two is four ."},
    {"instruction": "write a program .", "response": " "},
]
for row in next(process(rows)):
    print(row["score"], row["reason"])
