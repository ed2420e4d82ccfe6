"""The settings of a run and of a sweep, a dataclass a group of conf/."""
