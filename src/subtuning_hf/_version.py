"""Version of the package, in a module of its own so that nothing is imported to read it."""

__version__ = "0.1.0.dev0"
