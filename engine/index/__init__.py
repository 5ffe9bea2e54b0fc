"""What is searched: unit vectors of images, and exact search in them."""
