//! The pieces that families are composed of. Each enqueues its ops on a [`Step`](super::Step) and owns no state.

mod attention;
mod dense;
mod head;
mod loader;
mod norm;
mod routed;

pub use attention::Attention;
pub use dense::DenseLayer;
pub use head::Head;
pub use loader::LayerLoader;
pub use norm::RmsNorm;
pub use routed::RoutedLayer;
