"""Baton's suite: an installed app of the project that tests/settings.py describes."""
