"""The live dashboard: what its pages show, and what keeps them up to date. The admin hangs it into its own pages."""
