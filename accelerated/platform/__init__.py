"""The training platform: from an ordinary network to a spiking one in a browser.

It launches `accelerated.run` and reads what that writes; nothing else depends on it. See docs/platform.md.
"""
