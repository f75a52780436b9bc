"""Tags for templates of projects."""
