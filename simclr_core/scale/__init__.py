"""More data than memory, more processes, fewer activations at a time: wrapped around the method.

listing and streaming: images that stay on the disk; training: several processes, gradient caching.
"""

from simclr_core.scale.listing import load_stream as load_stream
