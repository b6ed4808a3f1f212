"""Provenance: calls of tasks, their arguments and results, kept to be found again and to be explained."""

from platform_db.provenance.recorder import Recorder, recorder_of

__all__ = ["Recorder", "recorder_of"]
