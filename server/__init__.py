"""simmap as a service and as a page: the engine and an index behind HTTP, and pairs in a browser."""
