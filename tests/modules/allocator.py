"""What the allocator gave out, for tests that hold counted memory to it."""

from torch.profiler import profile


def most_held(seen: profile) -> int:
    """Return the most bytes that were held at once, beyond what was there before the profile of memory began."""
    held = most = 0
    for event in sorted(seen.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most
