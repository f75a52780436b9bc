"""Runs outside the admin, to copy: a page of all runs, and a live page of each."""
