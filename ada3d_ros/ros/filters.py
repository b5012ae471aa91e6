"""`SimpleFilter` and `Subscriber` of message_filters, or a stand-in of the same small surface.

A ROS distribution provides message_filters; the wheels do not. Our synchroniser needs two things of
it: callbacks that can be chained, and a subscriber that is such a filter. The stand-in has exactly
those, with the same names.
"""

from collections.abc import Callable
from typing import Any

__all__ = ["HAVE_MESSAGE_FILTERS", "SimpleFilter", "Subscriber"]

try:
    from message_filters import SimpleFilter, Subscriber

    HAVE_MESSAGE_FILTERS = True
except ImportError:
    HAVE_MESSAGE_FILTERS = False

    class SimpleFilter:  # type: ignore[no-redef]
        """A source of messages that calls every registered callback in order."""

        def __init__(self) -> None:
            self.callbacks: dict[int, tuple[Callable[..., Any], tuple[Any, ...]]] = {}

        def registerCallback(self, cb: Callable[..., Any], *args: Any) -> int:
            """Call `cb(*messages, *args)` for each output; returns a connection number."""
            connection = len(self.callbacks)
            self.callbacks[connection] = (cb, args)
            return connection

        def signalMessage(self, *msg: Any) -> None:
            """Send one output to every callback."""
            for callback, args in self.callbacks.values():
                callback(*(msg + args))

    class Subscriber(SimpleFilter):  # type: ignore[no-redef]
        """A subscription as a filter; arguments as message_filters: (node, type, topic,
        **create_subscription options).
        """

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__()
            self.node, message_type, self.topic = args[:3]
            kwargs.setdefault("qos_profile", 10)
            self.sub = self.node.create_subscription(
                message_type, self.topic, self.callback, **kwargs
            )

        def callback(self, msg: Any) -> None:
            self.signalMessage(msg)
