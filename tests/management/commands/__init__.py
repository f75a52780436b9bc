"""Commands that the suite has in place of others."""
