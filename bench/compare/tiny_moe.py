"""Writes the small embedded model's checkpoint as a GGUF file in Q8_0, which llama.cpp and odmoe both read."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "oracle"))

from gguf_files import TYPES, write_gguf  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

folder, target = Path(sys.argv[1]), sys.argv[2]
config = json.loads((folder / "config.json").read_text())
write_gguf(target, config, load_file(folder / "model.safetensors"), lambda _name: TYPES.Q8_0)
