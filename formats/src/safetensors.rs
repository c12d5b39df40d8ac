//! Safetensors headers over hostile bytes, and a writer that aligns.
