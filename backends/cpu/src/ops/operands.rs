//! From the handles of an op to checked slices.

use crate::memory::{CpuBuffer, CpuKv, ReadGuard, WriteGuard};
use crate::view::{KvLayout, WeightView};
use odmoe_backend::{Buffer, KvCache, KvFormat, Weight};
use std::ops::Range;

/// The backend's own buffer.
pub fn own(buffer: &Buffer) -> &CpuBuffer {
    buffer
        .downcast()
        .expect("the buffer was made by another backend")
}

/// A buffer's bytes for reading.
pub fn read(buffer: &Buffer) -> ReadGuard<'_> {
    own(buffer).0.read()
}

/// A buffer's bytes for writing.
pub fn write(buffer: &Buffer) -> WriteGuard<'_> {
    own(buffer).0.write()
}

/// The first `elements` floats.
pub fn floats<'a>(guard: &'a ReadGuard<'_>, elements: usize) -> &'a [f32] {
    bytemuck::cast_slice(&guard[float_range(elements, guard.len())])
}

/// The first `elements` floats, for writing.
pub fn floats_mut<'a>(guard: &'a mut WriteGuard<'_>, elements: usize) -> &'a mut [f32] {
    let range = float_range(elements, guard.len());
    bytemuck::cast_slice_mut(&mut guard[range])
}

fn float_range(elements: usize, bytes: usize) -> Range<usize> {
    let wanted = elements.checked_mul(4).filter(|&wanted| wanted <= bytes);
    0..wanted.unwrap_or_else(|| panic!("{elements} floats do not fit a buffer of {bytes} bytes"))
}

/// The matrix that a weight describes.
pub fn weight_view<'a>(weight: &Weight, guard: &'a ReadGuard<'_>) -> WeightView<'a> {
    WeightView::new(
        guard,
        weight.offset_bytes,
        weight.format,
        weight.rows,
        weight.columns,
    )
    .in_layout(weight.layout)
}

/// The backend's own cache, the byte range of one layer in it, and the layer's layout.
pub fn kv_layer(cache: &KvCache, layer: usize) -> (&CpuKv, Range<usize>, KvLayout, KvFormat) {
    let own: &CpuKv = cache
        .downcast()
        .expect("the KV cache was made by another backend");
    let spec = cache.spec();
    assert!(layer < spec.layers, "KV layer {layer} of {}", spec.layers);
    let layout = KvLayout {
        blocks: spec.blocks,
        kv_heads: spec.kv_heads,
        block_tokens: spec.block_tokens,
        head_dim: spec.head_dim,
    };
    let bytes = layout.rows() * spec.format.row_bytes(spec.head_dim);
    (own, layer * bytes..(layer + 1) * bytes, layout, spec.format)
}
