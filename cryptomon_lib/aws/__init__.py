"""AWS: the stacks that hold a monitor there, how they are made and removed, what tells of it, and what it costs."""
