"""Typed settings for conf/."""
