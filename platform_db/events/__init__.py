"""Events: what was created, changed, noted and deleted, for watchers that miss none of it.

Nothing is sent: a watcher reads on from its place in the histories of all rows
(:mod:`platform_db.events.place`), and looks again after a moment. So writers pay for no watcher, and wait for
none.
"""

from platform_db.events.checkpoints import Watcher, forget, watchers
from platform_db.events.consuming import Consumed, consume
from platform_db.events.event import Event
from platform_db.events.reading import EventPage, read_events
from platform_db.events.waking import wake
from platform_db.events.watching import watch

__all__ = [
    "Consumed",
    "Event",
    "EventPage",
    "Watcher",
    "consume",
    "forget",
    "read_events",
    "wake",
    "watch",
    "watchers",
]
