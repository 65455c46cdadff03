"""Slow log-in after failures, counted by address: whoever guesses waits longer and longer before the next try is looked at."""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

FREE_TRIES = 4
LONGEST_WAIT = 900.0  # seconds
ADDRESSES_REMEMBERED = 10_000


class Logins:
    """Failed log-ins of each address; one of an IPv6 network counts for all of it.

    Args:
        clock: seconds that only rise.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tries: OrderedDict[str, tuple[int, float]] = OrderedDict()  # how many, and when the next is looked at

    def wait(self, address: str) -> float:
        """Begin a try: seconds to wait before it is looked at, 0 if it may go on. It counts as failed until `succeed`."""
        who, now = network_of(address), self._clock()
        tries, until = self._tries.get(who, (0, 0.0))
        if now < until:
            return until - now
        pause = min(LONGEST_WAIT, 2.0 ** (tries + 1 - FREE_TRIES)) if tries + 1 >= FREE_TRIES else 0.0
        self._tries[who] = tries + 1, now + pause
        self._tries.move_to_end(who)
        if len(self._tries) > ADDRESSES_REMEMBERED:
            self._tries.popitem(last=False)
        return 0.0

    def succeed(self, address: str) -> None:
        """The password was right: forget what was before."""
        self._tries.pop(network_of(address), None)


def network_of(address: str) -> str:
    """What counts as one: an address of IPv4, or of IPv6 the network of 2 ** 64 that one household has; else as it is."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network(f"{parsed}/64", strict=False)) if parsed.version == 6 else str(parsed)
