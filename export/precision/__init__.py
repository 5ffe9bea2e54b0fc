"""Lower precisions: float16 and int8."""
