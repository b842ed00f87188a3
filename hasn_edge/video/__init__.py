"""Video files: decoded, upscaled, encoded, with all that travels beside the images."""
