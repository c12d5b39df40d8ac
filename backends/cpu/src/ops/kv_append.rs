//! Storing keys and values.

use super::Executor;
use super::operands::{floats, kv_layer, read};
use crate::view::KvHalf;
use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use odmoe_backend::{KvFormat, Op};

impl Executor {
    /// Stores k and v [T, G, D].
    pub(super) fn kv_append(&mut self, op: &Op) {
        let Op::KvAppend {
            cache,
            layer,
            k,
            v,
            positions,
        } = op
        else {
            unreachable!("called for this op only")
        };
        let (cache, range, layout, format) = kv_layer(cache, *layer);
        let mut bytes = cache.region.write();
        let bytes = &mut bytes[range];
        let elements = positions.len() * layout.kv_heads * layout.head_dim;
        for (half, rows) in [(KvHalf::Key, read(k)), (KvHalf::Value, read(v))] {
            let mut heads = floats(&rows, elements).chunks_exact(layout.head_dim);
            for position in positions.iter() {
                for head in 0..layout.kv_heads {
                    let row = layout.row(
                        half,
                        position.block as usize,
                        head,
                        position.offset as usize,
                    );
                    let head = heads.next().expect("one head's row for each place");
                    let row_bytes = format.row_bytes(layout.head_dim);
                    store(format, head, &mut bytes[row * row_bytes..][..row_bytes]);
                }
            }
        }
    }
}

/// Writes one head's row.
fn store(format: KvFormat, from: &[f32], to: &mut [u8]) {
    match format {
        KvFormat::F32 | KvFormat::Q8_0 => format.block_format().encode_row(from, to),
        KvFormat::F16 => {
            let to: &mut [u16] = bytemuck::cast_slice_mut(to);
            to.reinterpret_cast_mut::<f16>()
                .convert_from_f32_slice(from);
        }
    }
}
