"""Training: a few optimiser steps, their state and their curve."""
