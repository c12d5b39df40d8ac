//! GGUF files opened as models: configuration, tensor names and the plan of a conversion, behind a sound header.

use super::Outcome;
use odmoe_convert::gguf::GgufModel;
use odmoe_convert::{ConvertError, ConvertOptions, ModelSource, planned_manifest};
use std::io::Write;

/// Bytes that the file seems to have: seeds are headers alone, and nothing but them is looked at.
const SEEMING_BYTES: u64 = 1 << 20;

/// Only opens.
pub fn parse(bytes: &[u8]) {
    drop(planned(bytes));
}

fn planned(bytes: &[u8]) -> Result<GgufModel, ConvertError> {
    let mut file = tempfile::Builder::new()
        .suffix(".gguf")
        .tempfile()
        .expect("a temporary file");
    file.write_all(bytes).expect("room for it");
    // Sparse.
    let longer = file.as_file().set_len(SEEMING_BYTES);
    longer.expect("a file system with sparse files");
    let model = GgufModel::open(file.path()).map_err(ConvertError::from)?;
    planned_manifest(&model, &ConvertOptions::default())?;
    Ok(model)
}

/// Opens `bytes` as a model and checks what it says of itself.
pub fn check(bytes: &[u8]) -> Outcome {
    let model = match planned(bytes) {
        Ok(model) => model,
        Err(error) => {
            let told = error.to_string();
            assert!(!told.is_empty() && told.len() < 4096, "{}", told.len());
            return match &error {
                ConvertError::Source(error) => Outcome::refused(error),
                other => Outcome::refused(other),
            };
        }
    };
    let config = &model.metadata().config;
    config.check().expect("a configuration that was checked");
    for tensor in model.tensors() {
        let bytes = tensor.format.tensor_bytes(&tensor.shape);
        assert!(
            bytes.is_some_and(|bytes| bytes <= SEEMING_BYTES),
            "{}",
            tensor.id
        );
    }
    Outcome::Accepted
}
