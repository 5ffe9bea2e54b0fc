"""simmap server: the engine and an index behind HTTP, for many clients at once."""
