//! Rotary embedding: the base of its angles, and what scaling divides its frequencies by.

use super::fields::Fields;
use crate::source::SourceError;
use odmoe_formats::model_config::MAX_HEAD_DIM;
use serde_json::{Map, Value};
use std::f64::consts::TAU;

pub(super) struct Rope {
    pub theta: f64,
    /// One a rotary pair, or none at all.
    pub frequency_divisors: Vec<f32>,
}

/// Older checkpoints have `rope_scaling` beside `rope_theta`, newer ones `rope_parameters` with all of it.
pub(super) fn read(
    fields: &Fields,
    default_theta: f64,
    head_dim: u32,
) -> Result<Rope, SourceError> {
    refuse_partial(fields)?;
    let outer_theta = fields.f64_or("rope_theta", default_theta)?;
    let names = ["rope_scaling", "rope_parameters"];
    let found = names
        .into_iter()
        .find_map(|name| Some((name, fields.present(name)?)));
    let Some((name, value)) = found else {
        return Ok(Rope {
            theta: outer_theta,
            frequency_divisors: Vec::new(),
        });
    };
    let Value::Object(map) = value else {
        return Err(fields.wrong(name, "an object"));
    };
    let scaling = Fields {
        path: fields.path.clone(),
        map: map.clone(),
    };
    refuse_partial(&scaling)?;
    let theta = scaling.f64_or("rope_theta", outer_theta)?;
    // A claim of wider heads is refused by the configuration's own check, not worked off here.
    let pairs = head_dim.min(MAX_HEAD_DIM) / 2;
    let frequency_divisors = match kind(map) {
        Some("default") => Vec::new(),
        Some("linear") => vec![scaling.f64("factor")? as f32; pairs as usize],
        Some("llama3") => Llama3::read(fields, &scaling)?.divisors(theta, head_dim, pairs),
        Some(kind) => return Err(fields.unsupported(&format!("{name} of type {kind:?}"))),
        None => return Err(fields.unsupported(&format!("{name} without a rope_type"))),
    };
    Ok(Rope {
        theta,
        frequency_divisors,
    })
}

fn kind(map: &Map<String, Value>) -> Option<&str> {
    map.get("rope_type").or_else(|| map.get("type"))?.as_str()
}

fn refuse_partial(fields: &Fields) -> Result<(), SourceError> {
    match fields.present("partial_rotary_factor") {
        Some(factor) if factor.as_f64() != Some(1.0) => {
            Err(fields.unsupported("a partial_rotary_factor"))
        }
        _ => Ok(()),
    }
}

/// Llama 3.1's scaling: wavelengths that the original context holds often enough stay, longer ones grow by `factor`,
/// and those between go smoothly from one to the other. As `_compute_llama3_parameters` of transformers.
struct Llama3 {
    factor: f64,
    low_freq_factor: f64,
    high_freq_factor: f64,
    original_context: f64,
}

impl Llama3 {
    /// The original context is in either object, or else the whole context, as transformers takes it.
    fn read(fields: &Fields, scaling: &Fields) -> Result<Self, SourceError> {
        let original = "original_max_position_embeddings";
        let whole = fields.f64("max_position_embeddings")?;
        let inner = scaling.f64_or(original, whole)?;
        Ok(Self {
            factor: scaling.f64("factor")?,
            low_freq_factor: scaling.f64("low_freq_factor")?,
            high_freq_factor: scaling.f64("high_freq_factor")?,
            original_context: fields.f64_or(original, inner)?,
        })
    }

    fn divisors(&self, theta: f64, head_dim: u32, pairs: u32) -> Vec<f32> {
        let pairs = 0..pairs;
        pairs
            .map(|pair| {
                let exponent = f64::from(2 * pair) / f64::from(head_dim);
                self.divisor(TAU * theta.powf(exponent)) as f32
            })
            .collect()
    }

    /// Of a pair whose angle goes round once in `wavelength` tokens.
    fn divisor(&self, wavelength: f64) -> f64 {
        if wavelength < self.original_context / self.high_freq_factor {
            return 1.0;
        }
        if wavelength > self.original_context / self.low_freq_factor {
            return self.factor;
        }
        let turns = self.original_context / wavelength;
        let width = self.high_freq_factor - self.low_freq_factor;
        let share = (turns - self.low_freq_factor) / width;
        1.0 / ((1.0 - share) / self.factor + share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Llama 3.1's own numbers; those expected are `inv_freq` of transformers without scaling over those with it.
    #[test]
    fn divisors_of_llama_3_1_are_those_of_transformers() {
        let scaling = Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192.0,
        };
        let divisors = scaling.divisors(500_000.0, 128, 64);
        let expected = [
            (0, 1.0),
            (28, 1.0),
            (29, 1.207_484),
            (31, 2.026_313),
            (34, 5.257_327),
            (35, 8.0),
            (63, 8.0),
        ];
        for (pair, expected) in expected {
            let found = f64::from(divisors[pair]);
            assert!(
                (found / expected - 1.0).abs() < 2e-6,
                "pair {pair}: {found}"
            );
        }
    }
}
