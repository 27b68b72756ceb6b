"""README.md of a model folder: what is known about a network, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from configs.schema import ModelConfig

_USE = """```python
from models.samwise import SAMWISE

model = SAMWISE.from_pretrained("PATH_OR_ID_OF_THIS_FOLDER")
```

Every script takes the folder, too: `python inference_demo.py --resume PATH_OF_THIS_FOLDER ...`"""


def model_card(config: ModelConfig, parameters: int, digest: str, training: Mapping[str, Any]) -> str:
    """The text of the card.

    Args:
        config: the architecture.
        parameters: how many numbers the network has.
        digest: SHA-256 of its weight file.
        training: plain values by names for people; nested ones become sections. `license` goes into the head.
    """
    head = ["---", "library_name: samwise", "tags:", "- referring-video-object-segmentation", "- sam2"]
    if isinstance(training.get("license"), str):
        head.append(f"license: {training['license']}")
    names = (("hierarchical selective attention", config.hsa), ("conditional memory encoder", config.use_cme_head))
    parts = [name for name, there in names if there]
    table = (
        ("parameters", f"{parameters:,}"),
        ("input", f"{config.sam2.image_size} x {config.sam2.image_size} pixels"),
        ("text encoder", f"{config.text.layers} layers of width {config.text.hidden_size}"),
        ("adapters", f"{len(config.fusion_stages)} of width {config.adapter_dim}"),
        ("with", ", ".join(parts) or "adapters only"),
        ("SHA-256 of the weights", f"`{digest}`"),
    )
    lines = [
        *head,
        "---",
        "",
        f"# SAMWISE {config.sam2.name}",
        "",
        "Segments what a sentence describes in a video (SAMWISE, arXiv 2411.17646).",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in table),
        "",
        _USE,
        "",
        "## Training",
        "",
        *(_facts(training) if training else ["Nothing is recorded about it."]),
    ]
    return "\n".join(lines) + "\n"


def _facts(facts: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    for name, value in facts.items():
        indent = "  " * depth
        if isinstance(value, Mapping):
            yield f"{indent}- {_line(name)}:"
            yield from _facts(value, depth + 1)
        else:
            text = ", ".join(map(_line, value)) if isinstance(value, list) else _line(value)
            yield f"{indent}- {_line(name)}: {text}"


def _line(value: Any) -> str:
    return " ".join(str(value).split())
