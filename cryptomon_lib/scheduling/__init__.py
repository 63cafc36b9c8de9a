"""Who runs the jobs of the schedule: a module a target, each with `render`, `install` and `remove`."""
