//! Brings models in: model sources, quantisation at conversion, the store writer.
