"""How fast the dashboard is, on a real daphne and in a real Chromium: ``make bench-dashboard``."""
