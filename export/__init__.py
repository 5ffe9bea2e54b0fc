"""simmap: export of trained networks to artifacts (needs the extra ``export``)."""
