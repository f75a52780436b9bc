"""The timeline of a run: when its steps waited and ran, on one axis of time."""
