"""What real processes do when they are killed, cut off or lied to, and how the engine gets over it."""
