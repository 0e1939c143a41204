"""Loads every tensor below a directory with safetensors, as a model server would, and shows a few."""

import pathlib
import sys
import zlib

import safetensors

tensors = []
for file in sorted(pathlib.Path(sys.argv[1]).rglob("*.safetensors")):
    tensors += safetensors.deserialize(file.read_bytes())
if not tensors:
    print("no .safetensors file in this model")
for name, tensor in sorted(tensors, key=lambda item: -len(item[1]["data"]))[:3]:
    shape = "×".join(map(str, tensor["shape"]))
    print(f"{name}  {tensor['dtype']} {shape}  crc32 {zlib.crc32(tensor['data']):08x}")
if len(tensors) > 3:
    total = sum(len(tensor["data"]) for _, tensor in tensors)
    print(f"and {len(tensors) - 3} more; {total / 1e6:.1f} MB of tensors in all")
