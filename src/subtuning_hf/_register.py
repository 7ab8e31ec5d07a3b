"""
Makes PEFT know the adapter type without importing PEFT.

PEFT has no entry points, and loading PEFT loads torch. So: if `peft` is imported already, the
adapter type is registered at once; otherwise a finder in front of `sys.meta_path` waits for the
first import of `peft`, registers when that import has succeeded, and takes itself away.

The hook is on the package `peft`, not on `peft.mapping` whose tables are filled: the tuner needs
names of the whole package, which half-way through PEFT's own import do not exist yet. Knows
nothing of what is registered; that is `subtuning_hf.tuner.register`.
"""

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

HOST = "peft"


def register() -> None:
    """Enter the adapter type into PEFT's tables; doing so twice changes nothing."""
    tuner = sys.modules.get("subtuning_hf.tuner")
    # When it is the tuner that imports PEFT, it is half-loaded now; it registers itself at its end.
    if tuner is None or hasattr(tuner, "register"):
        importlib.import_module("subtuning_hf.tuner").register()


def with_peft() -> None:
    """Register now if PEFT is imported, else as soon as it is."""
    if HOST in sys.modules:
        # Waits, if another thread is in the middle of importing it.
        importlib.import_module(HOST)
        register()
    elif not any(getattr(finder, "is_subtuning_hook", False) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds `peft` as the other finders do, and wraps its loader."""

    is_subtuning_hook = True  # by name, since a reload of this module makes another class

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != HOST:
            return None
        for finder in list(sys.meta_path):
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _RegisteringLoader(spec.loader, self)
                return spec
        return None


class _RegisteringLoader(Loader):
    """A module's own loader, which registers after it has run the module."""

    def __init__(self, loader: Loader, finder: _Finder) -> None:
        self._loader = loader
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        if name == "_loader":  # copied or unpickled without __init__
            raise AttributeError(name)
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # The module must look as if nobody had been here, also to what runs inside it.
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)  # an error here is the module's own, and the hook stays for another try
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        try:
            register()
        except Exception as error:
            # `import peft` is not ours to break. Whoever uses a name of ours meets the error itself.
            warnings.warn(
                f"subtuning-hf could not register its adapter type with PEFT: {type(error).__name__}: {error}. "
                "Everything else in PEFT works. Check that the installed peft is one that subtuning-hf supports.",
                RuntimeWarning,
                stacklevel=2,
            )
