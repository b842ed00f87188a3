"""What an image file says about itself before any pixel is decoded: format, size, orientation, wholeness.

OpenCV decodes a file that was cut off into a half-gray image, prints the libraries' complaints to the
terminal, allocates whatever size a header claims, and differs between versions in what it makes of
orientation and alpha. So these readers look first; nothing here imports OpenCV.
"""
