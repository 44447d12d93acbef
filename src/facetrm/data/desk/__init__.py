"""The desk: plain English whose truth is known (see :mod:`facetrm.data.desk.desk`)."""

from facetrm.data.desk.desk import Desk, DeskConfig

__all__ = ["Desk", "DeskConfig"]
