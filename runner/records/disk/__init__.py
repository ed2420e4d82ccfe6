"""The files of sweeps on disk: written whole, locked, opened through no link, removed."""
