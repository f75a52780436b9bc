"""What the pictures of the documentation show; workers find the modules by their bare names."""
