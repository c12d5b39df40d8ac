//! The pieces that families are composed of. Each enqueues its ops on a [`Step`](super::Step) and owns no state.

mod attention;
mod dense;
mod head;
mod norm;
mod routed;

pub use attention::{Attention, HeadShape};
pub use dense::DenseLayer;
pub use head::Head;
pub use norm::RmsNorm;
pub use routed::RoutedLayer;
