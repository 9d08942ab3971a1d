"""What a package holds, for tests that leave nothing of it out."""

import importlib
import inspect
import pkgutil
from types import ModuleType


def classes(package: ModuleType, base: type) -> set[type]:
    """Return the classes of a package that can be built and are of a kind."""
    found = set()
    for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        module = importlib.import_module(info.name)
        for _, each in inspect.getmembers(module, inspect.isclass):
            if each.__module__ == info.name and issubclass(each, base) and not inspect.isabstract(each):
                found.add(each)
    return found
