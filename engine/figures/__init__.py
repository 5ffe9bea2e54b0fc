"""What is looked at: each figure has ``data()``, ``picture()`` and ``save(path)``."""
