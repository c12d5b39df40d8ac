//! The pieces that families are composed of. Each enqueues its ops on a [`Step`](super::Step) and owns no state.

mod attention;
mod decoder;
mod dense;
mod head;
mod loader;
mod norm;
mod routed;
mod shared;
mod swiglu;

pub use attention::Attention;
pub use decoder::{Decoder, DecoderLayer, Mlp};
pub use dense::DenseLayer;
pub use head::Head;
pub use loader::LayerLoader;
pub use norm::RmsNorm;
pub use routed::RoutedLayer;
pub use shared::SharedExpert;
pub use swiglu::SwiGlu;
