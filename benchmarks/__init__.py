"""How fast Baton is beside raw django-q2, on real workers: ``python -m benchmarks``."""
