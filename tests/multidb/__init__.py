"""What Baton does in a project with two databases; run with settings of its own by ``tests/test_databases.py``."""
