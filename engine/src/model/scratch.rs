//! The activation buffers of one lane, allocated at start for the most rows that it can have.

use crate::api::StartError;
use odmoe_backend::{Backend, BackendError, Buffer, Choice, StreamId};
use odmoe_formats::ByteCount;
use odmoe_formats::model_config::ModelConfig;

const F32_BYTES: usize = 4;

/// What a lane's buffers are sized by: widths of a model's activations, and the most rows of the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScratchShape {
    /// T at most.
    pub rows: usize,
    /// S at most.
    pub sampled_rows: usize,
    /// H.
    pub hidden: usize,
    /// Q * D.
    pub query: usize,
    /// G * D.
    pub key_value: usize,
    /// The widest inner state of a dense MLP or shared expert, 0 without either.
    pub mlp: usize,
    /// 1 with shared experts, 0 without: the width of their gate's output.
    pub shared_gate: usize,
    /// K.
    pub top_k: usize,
    /// P, 0 without prediction.
    pub predict_top: usize,
    /// V.
    pub vocab: usize,
}

impl ScratchShape {
    /// For `rows` rows of a model, of which `sampled_rows` are sampled.
    pub fn new(config: &ModelConfig, rows: usize, sampled_rows: usize, predict_top: usize) -> Self {
        let head_dim = config.head_dim as usize;
        let has_dense = config.sparse_layers() < config.num_hidden_layers;
        let dense = if has_dense {
            config.intermediate_size
        } else {
            0
        };
        let shared = config.shared_expert_intermediate_size();
        Self {
            rows,
            sampled_rows,
            hidden: config.hidden_size as usize,
            query: config.num_attention_heads as usize * head_dim,
            key_value: config.num_key_value_heads as usize * head_dim,
            mlp: dense.max(shared) as usize,
            shared_gate: usize::from(shared > 0),
            top_k: config.num_experts_per_tok() as usize,
            predict_top,
            vocab: config.vocab_size as usize,
        }
    }

    /// Bytes that [`Scratch::allocate`] takes from the backend.
    pub fn device_bytes(&self) -> ByteCount {
        let bytes = self.buffer_bytes().into_iter().map(|bytes| bytes as u64);
        ByteCount(bytes.sum())
    }

    /// Bytes of the host's copies while a pass is on its way: the logits of all sampled rows, the states of all rows if
    /// they are pooled, the working copies of the one row that is sampled (logits, and an order of tokens), choices as
    /// read back and as expert rows.
    pub fn host_bytes(&self) -> ByteCount {
        let logits = self.sampled_rows * self.vocab * F32_BYTES;
        let states = self.rows * self.hidden * F32_BYTES;
        let sampling = 4 * self.vocab * F32_BYTES;
        let routing = self.rows * (2 * self.top_k + self.predict_top) * Choice::BYTES;
        ByteCount((logits + states + sampling + routing) as u64)
    }

    /// Bytes of each buffer, in the order of [`Scratch`]'s fields.
    fn buffer_bytes(&self) -> [usize; 15] {
        let f32_rows = |width: usize| self.rows * width * F32_BYTES;
        let choices = |count: usize| self.rows * count * Choice::BYTES;
        [
            f32_rows(self.hidden),
            f32_rows(self.hidden),
            f32_rows(self.hidden),
            f32_rows(self.query),
            f32_rows(self.key_value),
            f32_rows(self.key_value),
            f32_rows(self.query),
            f32_rows(self.mlp),
            f32_rows(self.mlp),
            f32_rows(self.shared_gate),
            choices(self.top_k),
            choices(self.predict_top),
            f32_rows(self.top_k * self.hidden),
            self.sampled_rows * self.hidden * F32_BYTES,
            self.sampled_rows * self.vocab * F32_BYTES,
        ]
        // Unused buffers keep a byte: nothing is a size that every device can allocate.
        .map(|bytes| bytes.max(1))
    }
}

/// The buffers. Their contents mean something only within one pass.
pub struct Scratch {
    /// The residual stream, [T, H].
    pub hidden: Buffer,
    /// The normed input of a half layer, and after the last one the pooled rows, [T, H].
    pub normed: Buffer,
    /// What a half layer adds to the residual stream, [T, H].
    pub projected: Buffer,
    /// Queries, [T, Q, D].
    pub q: Buffer,
    /// Keys, [T, G, D].
    pub k: Buffer,
    /// Values, [T, G, D].
    pub v: Buffer,
    /// Attention's output, [T, Q, D].
    pub attended: Buffer,
    /// The gate of a dense MLP or shared expert, [T, F].
    pub mlp_gate: Buffer,
    /// Its other half, [T, F].
    pub mlp_up: Buffer,
    /// What the shared expert's output is gated with, [T, 1].
    pub shared_gate: Buffer,
    /// The router's choices, [T, K].
    pub choices: Buffer,
    /// The next layer's likely choices, [T, P].
    pub predicted: Buffer,
    /// The experts' outputs, [T * K, H].
    pub expert_out: Buffer,
    /// The sampled rows of the residual stream, [S, H].
    pub gathered: Buffer,
    /// Their logits, [S, V].
    pub logits: Buffer,
}

impl Scratch {
    /// Allocates every buffer.
    pub fn allocate(backend: &dyn Backend, shape: &ScratchShape) -> Result<Self, StartError> {
        let mut sizes = shape.buffer_bytes().into_iter();
        let mut next = || backend.allocate(sizes.next().expect("a size for each buffer"));
        let scratch = Self {
            hidden: next()?,
            normed: next()?,
            projected: next()?,
            q: next()?,
            k: next()?,
            v: next()?,
            attended: next()?,
            mlp_gate: next()?,
            mlp_up: next()?,
            shared_gate: next()?,
            choices: next()?,
            predicted: next()?,
            expert_out: next()?,
            gathered: next()?,
            logits: next()?,
        };
        zero(backend, &scratch.expert_out)?;
        Ok(scratch)
    }
}

/// Writes zeros. A row whose expert could not be had, or whose sequence has ended, is summed with the others and
/// thrown away: it must hold numbers that somebody wrote.
fn zero(backend: &dyn Backend, buffer: &Buffer) -> Result<(), BackendError> {
    let zeros = vec![0; buffer.bytes().min(1 << 20)];
    for offset in (0..buffer.bytes()).step_by(zeros.len()) {
        let piece = &zeros[..zeros.len().min(buffer.bytes() - offset)];
        backend.upload(StreamId::COMPUTE, piece, buffer, offset)?;
    }
    Ok(())
}
