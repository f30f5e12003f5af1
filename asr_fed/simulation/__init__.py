"""A virtual clock: how long a federation would take on devices and networks that are not here, and who is late."""
