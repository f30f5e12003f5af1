"""A federation over real machines: Flower's SuperLink at the server, a node with a SuperNode at each silo."""
