"""CLIPpy, the model and its science: towers, loss, read-outs and metrics, in torch alone.

``from clippy import CLIPpy; model = CLIPpy.from_pretrained("folder")``
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clippy.architecture import ModelConfig
    from clippy.model import CLIPpy

__all__ = ["CLIPpy", "ModelConfig"]


def __getattr__(name: str) -> Any:
    """Import torch only when the model is asked for, so that schemas and ``--help`` stay instant."""
    if name == "CLIPpy":
        from clippy.model import CLIPpy

        return CLIPpy
    if name == "ModelConfig":
        from clippy.architecture import ModelConfig

        return ModelConfig
    raise AttributeError(f"module 'clippy' has no attribute {name!r}")
