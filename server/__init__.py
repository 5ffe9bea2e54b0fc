"""The page that shows a pair in a browser, and what hosts it."""
