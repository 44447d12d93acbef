"""The tasks of the desk: what people ask for, and how an answer is drafted."""

from typing import Final

from facetrm.data.desk.draft import Task
from facetrm.data.desk.tasks.advice import ADVICE
from facetrm.data.desk.tasks.code import CODE
from facetrm.data.desk.tasks.formats import FORMAT
from facetrm.data.desk.tasks.harm import HARM
from facetrm.data.desk.tasks.mail import MAIL
from facetrm.data.desk.tasks.persona import PERSONA
from facetrm.data.desk.tasks.questions import FACTS
from facetrm.data.desk.tasks.sums import SUMS
from facetrm.data.desk.tasks.unknown import UNKNOWN

DESK_TASKS: Final[dict[str, Task]] = {
    task.name: task for task in (SUMS, FACTS, UNKNOWN, ADVICE, FORMAT, MAIL, PERSONA, CODE, HARM)
}

__all__ = ["DESK_TASKS"]
