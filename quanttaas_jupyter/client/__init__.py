"""Client: the calls ``compress``, ``open`` and ``studies``, and the objects that they return."""
