//! What `odmoe synth` promises of its models' routing and activations, as the engine runs them: by its own lookups of
//! experts in decode. `bench/RESULTS.md` has the table that this prints:
//! `cargo test -p odmoe-tests --test synth_routing -- --nocapture`.

use odmoe_convert::random_model::{
    ExpertNaming, GgufOptions, Preset, Quantisation, RandomModel, Routing, WriteOptions,
};
use odmoe_tests::engine::{EngineOptions, TestEngine};
use odmoe_tests::routing::RoutingObserver;
use std::sync::Arc;

const TOKENS: usize = 160;
const GENERATED: u32 = 80;

struct Observed {
    engine: TestEngine,
    routing: Arc<RoutingObserver>,
}

/// An engine over a model in Q4_K_M.
#[track_caller]
fn start(model: &RandomModel) -> Observed {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.gguf");
    let gguf = GgufOptions {
        quantisation: Quantisation::Q4KM,
        naming: ExpertNaming::Stacked,
    };
    let written = model.write_gguf(&path, gguf, WriteOptions::default());
    written.unwrap_or_else(|e| panic!("{e}"));
    let routing = Arc::new(RoutingObserver::default());
    let options = EngineOptions {
        cache_share: 1.0,
        ..EngineOptions::default()
    };
    let engine = TestEngine::start_observed(&path, options, routing.clone());
    Observed { engine, routing }
}

/// Token ids that look random.
fn random_ids(model: &RandomModel, count: usize) -> Vec<u32> {
    let drawn = (1..=count as u64).map(|place| place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33);
    drawn
        .map(|drawn| (drawn % u64::from(model.vocab)) as u32)
        .collect()
}

fn mean(shares: &[f64]) -> f64 {
    shares.iter().sum::<f64>() / shares.len() as f64
}

fn range(shares: &[f64]) -> String {
    let least = shares.iter().copied().fold(f64::INFINITY, f64::min);
    let most = shares.iter().copied().fold(0.0, f64::max);
    format!("{least:.2} to {most:.2}")
}

/// How much of a token's experts later tokens have, by layer.
struct Recurrence {
    /// The next one, of random tokens.
    next: Vec<f64>,
    /// The one 50 later.
    far: Vec<f64>,
    /// The next one, of greedy tokens.
    generated: Vec<f64>,
}

/// Measures a model, and prints it as a row of the table.
fn measure(name: &str, model: &RandomModel) -> Recurrence {
    let Observed { engine, routing } = start(model);
    let ids = random_ids(model, TOKENS);
    engine.score(&ids[..1], &ids[1..], 1).wait();
    let read = routing.take();
    // The first is the prompt, and nothing is computed after the last.
    read.assert_shape(model.layers, TOKENS - 2, model.top_k);
    engine.generate(&ids[..64], GENERATED);
    let written = routing.take();
    written.assert_shape(model.layers, GENERATED as usize - 1, model.top_k);
    let (next, far) = (read.recurrence(1), read.recurrence(50));
    let generated = written.recurrence(1);
    println!(
        "| {name} | {} of {} | {}, {} | {:.3} | {} | {} | {} |",
        model.top_k,
        model.experts,
        model.layers,
        model.hidden,
        f64::from(model.top_k) / f64::from(model.experts),
        range(&next),
        range(&generated),
        range(&far),
    );
    Recurrence {
        next,
        far,
        generated,
    }
}

const PRESETS: [Preset; 3] = [Preset::Qwen3_30bA3b, Preset::Olmoe7b, Preset::Mixtral8x7b];

/// Four layers of a preset, narrower, with all of its experts.
fn four_layers(preset: Preset, routing: Routing) -> RandomModel {
    RandomModel {
        layers: 4,
        expert_ffn: 256,
        vocab: 4096,
        routing,
        ..preset.model().with_hidden(512)
    }
}

/// The bounds of a layer are wider than those of the mean by what so few tokens leave to chance; greedy tokens repeat one
/// another.
#[test]
fn with_reuse_a_third_to_half_of_the_experts_recur_in_every_family_and_layer() {
    for preset in PRESETS {
        let (name, model) = (preset.name(), four_layers(preset, Routing::Reuse));
        let Recurrence {
            next,
            far,
            generated,
        } = measure(&format!("`{name}` reuse"), &model);
        let chance = f64::from(model.top_k) / f64::from(model.experts);
        for shares in [&next, &generated] {
            let within = |share: &f64| (0.27..0.58).contains(share);
            assert!(shares.iter().all(within), "{name}: {shares:.3?}");
        }
        let mean_next = mean(&next);
        assert!((0.3..0.5).contains(&mean_next), "{name}: {mean_next:.3}");
        assert!(mean(&far) < 1.5 * chance, "{name}: {far:.3?}");
    }
}

#[test]
fn with_uniform_routing_experts_recur_by_chance() {
    for preset in PRESETS {
        let model = four_layers(preset, Routing::Uniform);
        let name = format!("`{}` uniform", preset.name());
        let recurrence = measure(&name, &model);
        let chance = f64::from(model.top_k) / f64::from(model.experts);
        for shares in [&recurrence.next, &recurrence.far, &recurrence.generated] {
            let mean = mean(shares);
            let by_chance = 0.75 * chance..1.25 * chance;
            assert!(by_chance.contains(&mean), "{name}: {shares:.3?}");
        }
    }
}

/// All layers of every preset, made narrow.
#[test]
fn activations_stay_finite_through_all_layers() {
    for preset in Preset::ALL {
        let narrow = preset.model().with_hidden(128);
        let model = RandomModel {
            experts: narrow.experts.min(32),
            expert_ffn: narrow.expert_ffn.min(64),
            dense_ffn: narrow.dense_ffn.min(256),
            vocab: 512,
            ..narrow
        };
        let routings = match model.experts {
            0 => &[Routing::Uniform][..],
            _ => &[Routing::Uniform, Routing::Reuse],
        };
        for &routing in routings {
            let name = format!("{} {routing:?}", preset.name());
            let model = RandomModel {
                routing,
                ..model.clone()
            };
            let Observed { engine, .. } = start(&model);
            let ids = random_ids(&model, 48);
            let scored = engine
                .score(&ids[..32], &ids[32..], engine.vocabulary())
                .wait();
            assert_eq!(scored.len(), 16, "{name}");
            for position in scored {
                let logprobs = position.top.iter().map(|token| f64::from(token.logprob));
                let logprobs: Vec<f64> = logprobs.collect();
                assert_eq!(logprobs.len(), model.vocab as usize, "{name}");
                assert!(logprobs.iter().all(|logprob| logprob.is_finite()), "{name}");
                let centre = mean(&logprobs);
                let squares: Vec<f64> = logprobs.iter().map(|x| (x - centre).powi(2)).collect();
                // Of the logits as well, which a constant sets apart.
                let deviation = mean(&squares).sqrt();
                assert!((0.5..2.0).contains(&deviation), "{name}: {deviation}");
            }
        }
    }
}
