"""NNX layers as Linen modules, and back."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.bridge.example import nnx_inside_linen

    __all__ = ["nnx_inside_linen"]
else:

    def __getattr__(name: str) -> Any:
        # Importing flax takes a second.
        if name == "nnx_inside_linen":
            from runner.bridge.example import nnx_inside_linen

            return nnx_inside_linen
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
