"""Other engines, each run as a process of its own by `pipemax bench`. Nobody imports them."""
