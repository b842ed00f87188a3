"""Where live frames are shown: a window or the terminal."""
