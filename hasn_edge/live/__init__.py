"""Live upscaling: cameras, streams and files, on the screen, in the browser or into a file."""
