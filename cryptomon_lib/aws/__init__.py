"""AWS: the stacks that hold a monitor there, how they are made and removed, and what tells of it."""
