"""Property tests draw the same cases each time, and take as long as the machine needs."""

from hypothesis import settings

settings.register_profile("vlm", deadline=None, derandomize=True)
settings.load_profile("vlm")
