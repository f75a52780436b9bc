"""What `make` runs: the environment, the servers, the suite."""
