//! A random model without experts, as a store.

use odmoe_convert::random_model::RandomModel;
use odmoe_convert::{
    ConvertOptions, Fingerprint, FingerprintBuilder, ModelMetadata, ModelSource, NoProgress,
    SourceError, SourceFileInfo, SourceTensor, TensorId, TextContents, convert,
};
use odmoe_formats::model_config::ModelConfig;
use odmoe_formats::{BlockFormat, expected};
use std::path::Path;

/// Its weights are made as they are read: what is at an offset depends on the tensor and the offset alone.
struct DenseLlama {
    metadata: ModelMetadata,
    tensors: Vec<SourceTensor>,
}

/// Converts it into `store`. A model with experts lends its tokenizer, by way of the folder `lent`.
pub fn write_dense_llama(lent: &Path, store: &Path) {
    let model = RandomModel::default();
    model.write(lent).unwrap();
    let config = ModelConfig {
        architecture: "llama".into(),
        intermediate_size: 96,
        moe: None,
        ..model.model_config()
    };
    let tensor = |tensor: expected::ExpectedTensor| SourceTensor {
        source_name: tensor.name.clone(),
        id: TensorId::Resident(tensor.name),
        format: BlockFormat::F32,
        shape: tensor.shape,
    };
    let tensors = expected::resident_tensors(&config).unwrap().into_iter();
    let source = DenseLlama {
        tensors: tensors.map(tensor).collect(),
        metadata: ModelMetadata {
            suggested_name: "dense-llama".into(),
            config,
            text: TextContents {
                tokenizer: Some(std::fs::read(lent.join("tokenizer.json")).unwrap()),
                ..TextContents::default()
            },
        },
    };
    convert(&source, store, &ConvertOptions::default(), &NoProgress).unwrap();
}

impl ModelSource for DenseLlama {
    fn metadata(&self) -> &ModelMetadata {
        &self.metadata
    }

    fn tensors(&self) -> &[SourceTensor] {
        &self.tensors
    }

    fn read_tensor(&self, index: usize, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        for (element, bytes) in (offset / 4..).zip(into.chunks_exact_mut(4)) {
            let drawn = (index as u64 + 1) * 0x9e37_79b9 + element * 0x85eb_ca6b;
            let weight = ((drawn ^ (drawn >> 13)) % 2001) as f32 / 1000.0 - 1.0;
            bytes.copy_from_slice(&(weight * 0.2).to_le_bytes());
        }
        Ok(())
    }

    fn files(&self) -> &[SourceFileInfo] {
        &[]
    }

    fn read_file(&self, _: usize, _: u64, _: &mut [u8]) -> Result<(), SourceError> {
        unreachable!("there are no files")
    }

    fn fingerprint(&self) -> Fingerprint {
        FingerprintBuilder::new("dense llama of the tests").finish()
    }

    fn check_unchanged(&self) -> Result<(), SourceError> {
        Ok(())
    }
}
