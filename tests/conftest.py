"""Makes the helper modules of this folder (``builders``) importable from every test below it."""

pytest_plugins = ["pytester"]
