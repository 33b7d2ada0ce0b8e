"""What `pipemax plan --detect` measures of the machine it stands on, and the profile of it."""
