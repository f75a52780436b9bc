"""The live dashboard: pages of runs inside the admin."""
