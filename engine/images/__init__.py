"""What a photo is: from a file to pixels, to the network's input, and back to places on the photo."""
