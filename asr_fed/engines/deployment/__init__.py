"""A federation over real machines: Flower's SuperLink on the server, a node with a SuperNode at each data owner."""
