//! The memory sum of promise P2, from the same shapes that are allocated.

use crate::api::{EngineConfig, MemoryPlan};
use crate::model::scratch::ScratchShape;
use crate::model::weights::READ_BYTES;
use odmoe_backend::{KvSpec, OpShape, scratch_bytes_max};
use odmoe_expert_store::{Catalog, StoreConfig};
use odmoe_formats::ByteCount;
use odmoe_formats::manifest::Manifest;
use odmoe_formats::model_config::ModelConfig;

/// What no shape says: the program and its libraries (about 30 MiB mapped and touched), stacks and allocator arenas
/// of [`THREADS`] (16 MiB), a tokenizer of 150 000 entries (about 64 MiB in the `tokenizers` crate), request
/// texts and connection buffers (10 MiB), embeddings until they are sent (16 MiB), responses kept for later (8 MiB), the
/// books of the KV cache (2 MiB: some 200 bytes for each of 10,000 blocks; where there are more, they are a few thousandths
/// of what the blocks take).
const FIXED_OVERHEAD: ByteCount = ByteCount(146 << 20);
/// Of them two or four compute on a small machine.
const THREADS: usize = 12;
/// The stack and the arena of one more.
const THREAD_BYTES: u64 = 2 << 20;

/// Buffers of the prefill and the decode lane.
///
/// A prefill lane samples at most one row a sequence; a decode lane has one row a sequence.
pub fn lane_shapes(model: &ModelConfig, config: &EngineConfig) -> [ScratchShape; 2] {
    let (chunk, running) = (config.prefill_chunk_tokens, config.max_running);
    let predict_top = predict_top(model, config);
    [
        ScratchShape::new(model, chunk, chunk.min(running), predict_top),
        ScratchShape::new(model, running, running, predict_top),
    ]
}

/// P: no more than there are experts.
pub fn predict_top(model: &ModelConfig, config: &EngineConfig) -> usize {
    config.predict_top.min(model.num_experts() as usize)
}

/// The KV cache of a model with so many blocks.
pub fn kv_spec(model: &ModelConfig, config: &EngineConfig, blocks: usize) -> KvSpec {
    KvSpec {
        layers: model.num_hidden_layers as usize,
        kv_heads: model.num_key_value_heads as usize,
        head_dim: model.head_dim as usize,
        block_tokens: config.kv_block_tokens,
        blocks,
        format: config.kv_format,
    }
}

/// What bounds the backend's own scratch.
fn largest_op(model: &ModelConfig, config: &EngineConfig, shapes: &[ScratchShape; 2]) -> OpShape {
    let [prefill, decode] = shapes;
    OpShape {
        rows: prefill.rows.max(decode.rows),
        width: prefill.hidden.max(prefill.query).max(prefill.mlp),
        expert_state: prefill.top_k * model.moe_intermediate_size() as usize,
        small: model.num_experts() as usize + model.head_dim as usize,
        threads: config.compute_threads,
    }
}

/// The sum. Experts are counted as the slots that the store will allocate, or as the budget where it is too small.
pub fn plan(manifest: &Manifest, store: &StoreConfig, config: &EngineConfig) -> MemoryPlan {
    let base = manifest.resident.values().map(|tensor| tensor.bytes).sum();
    let catalog = Catalog::new(manifest).keeping(&store.keep);
    let slots = catalog.slots(store.budget);
    let shapes = lane_shapes(&manifest.config, config);
    let lanes: u64 = shapes
        .iter()
        .map(|shape| shape.device_bytes().0 + shape.host_bytes().0)
        .sum();
    let largest = largest_op(&manifest.config, config, &shapes);
    let scratch = lanes + scratch_bytes_max(largest) as u64;
    let more_threads = config.compute_threads.saturating_sub(THREADS) as u64;
    MemoryPlan {
        base: ByteCount(base),
        kv: ByteCount(kv_spec(&manifest.config, config, config.kv_blocks).bytes() as u64),
        experts: slots.map_or(store.budget, |slots| slots.bytes()),
        scratch: ByteCount(scratch),
        overhead: ByteCount(FIXED_OVERHEAD.0 + READ_BYTES as u64 + more_threads * THREAD_BYTES),
    }
}
