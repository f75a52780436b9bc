"""Two connections of a real PostgreSQL at the same instant, a thousand times each."""
