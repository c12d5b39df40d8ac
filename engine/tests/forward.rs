//! The forward pass against one that is written down from the papers in double precision, without blocks, lanes, caches
//! or experts that page: norm, grouped-query attention with biases and normed, turned heads, softmax routing, SwiGLU,
//! shared experts.

mod support;

use odmoe_backend::KvFormat;
use odmoe_engine::Pooling;
use odmoe_formats::manifest::FileIndex;
use odmoe_formats::model_config::ModelConfig;
use odmoe_formats::{BlockFormat, ExpertKey};
use support::engine::{Setup, TestEngine, greedy, setups};
use support::families::families;
use support::model::{Random, TestModel, random_model, small_config};

const SEED: u64 = 5;

/// The engine computes in F32: a few roundings of 2^-24 for each of some hundred operations in a row, on values near
/// one, grown by the logits' sums of a hundred terms.
const TOLERANCE: f64 = 2e-4;

/// A matrix in double precision, row by row.
struct Matrix(Vec<Vec<f64>>);

impl Matrix {
    fn decode(
        model: &TestModel,
        file: FileIndex,
        offset: u64,
        shape: &[u64],
        format: BlockFormat,
    ) -> Self {
        let columns = *shape.last().unwrap();
        let rows = shape.iter().product::<u64>() / columns;
        let row_bytes = format.row_bytes(columns).unwrap() as usize;
        let bytes = &model.files[file.0 as usize][offset as usize..];
        let row = |row: &[u8]| {
            let mut decoded = vec![0.0; columns as usize];
            format.decode_row(row, &mut decoded);
            decoded.into_iter().map(f64::from).collect()
        };
        Self(
            bytes
                .chunks_exact(row_bytes)
                .take(rows as usize)
                .map(row)
                .collect(),
        )
    }

    fn times(&self, x: &[f64]) -> Vec<f64> {
        self.0.iter().map(|row| dot(row, x)).collect()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(into: &mut [f64], x: &[f64], factor: f64) {
    into.iter_mut()
        .zip(x)
        .for_each(|(into, x)| *into += factor * x);
}

fn softmax(scores: &[f64]) -> Vec<f64> {
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|score| (score - most).exp()).sum();
    scores
        .iter()
        .map(|score| (score - most).exp() / sum)
        .collect()
}

struct Reference<'a> {
    model: &'a TestModel,
    config: &'a ModelConfig,
}

impl Reference<'_> {
    fn resident(&self, name: &str) -> Matrix {
        let tensor = &self.model.manifest.resident[name];
        Matrix::decode(
            self.model,
            tensor.file,
            tensor.offset,
            &tensor.shape,
            tensor.format,
        )
    }

    fn layer(&self, layer: u32, name: &str) -> Matrix {
        self.resident(&format!("layers.{layer}.{name}"))
    }

    fn expert(&self, key: ExpertKey, role: &str) -> Matrix {
        let object = self
            .model
            .manifest
            .objects
            .iter()
            .find(|object| object.key == key)
            .unwrap();
        let tensor = &object.tensors[role];
        Matrix::decode(
            self.model,
            object.file,
            object.offset + tensor.offset,
            &tensor.shape,
            tensor.format,
        )
    }

    fn norm(&self, x: &[f64], weight: &Matrix) -> Vec<f64> {
        let mean = dot(x, x) / x.len() as f64;
        let scale = 1.0 / (mean + f64::from(self.config.rms_norm_eps)).sqrt();
        x.iter()
            .zip(&weight.0[0])
            .map(|(x, w)| x * scale * w)
            .collect()
    }

    /// A projection of a layer with its bias, by the letter of its name.
    fn project(&self, layer: u32, letter: &str, x: &[f64]) -> Vec<f64> {
        let mut projected = self.layer(layer, &format!("{letter}_proj")).times(x);
        if self.config.attention_bias {
            let bias = self.layer(layer, &format!("{letter}_bias"));
            add(&mut projected, &bias.0[0], 1.0);
        }
        projected
    }

    /// Heads of a projection, normed as the architecture does and turned by `position`.
    fn heads(&self, layer: u32, letter: &str, x: &[f64], position: usize) -> Vec<Vec<f64>> {
        let (dim, half) = (
            self.config.head_dim as usize,
            self.config.head_dim as usize / 2,
        );
        let norm = || self.layer(layer, &format!("{letter}_norm"));
        let mut projected = self.project(layer, letter, x);
        let each = match self.config.architecture.as_str() {
            "qwen3" | "qwen3moe" => Some(norm()),
            "olmoe" => {
                projected = self.norm(&projected, &norm());
                None
            }
            _ => None,
        };
        let turn = |head: &[f64]| {
            let head = each
                .as_ref()
                .map_or(head.to_vec(), |norm| self.norm(head, norm));
            let angle = |i: usize| {
                let frequency = self.config.rope_theta.powf(-2.0 * i as f64 / dim as f64);
                let divisor = self.config.rope_frequency_divisors.get(i);
                position as f64 * frequency / divisor.map_or(1.0, |d| f64::from(*d))
            };
            let low = (0..half).map(|i| head[i] * angle(i).cos() - head[i + half] * angle(i).sin());
            let high =
                (0..half).map(|i| head[i + half] * angle(i).cos() + head[i] * angle(i).sin());
            low.chain(high).collect()
        };
        projected.chunks_exact(dim).map(turn).collect()
    }

    fn attention(&self, layer: u32, hidden: &mut [Vec<f64>]) {
        let [norm, o] = ["input_norm", "o_proj"].map(|name| self.layer(layer, name));
        let dim = self.config.head_dim as usize;
        let group = (self.config.num_attention_heads / self.config.num_key_value_heads) as usize;
        let normed: Vec<_> = hidden.iter().map(|x| self.norm(x, &norm)).collect();
        let keys: Vec<_> = normed
            .iter()
            .enumerate()
            .map(|(p, x)| self.heads(layer, "k", x, p))
            .collect();
        let values: Vec<_> = normed.iter().map(|x| self.project(layer, "v", x)).collect();
        for (position, x) in normed.iter().enumerate() {
            let mut attended = Vec::new();
            for (head, query) in self.heads(layer, "q", x, position).iter().enumerate() {
                let kv = head / group;
                let score = |p: usize| dot(query, &keys[p][kv]) / (dim as f64).sqrt();
                let weights = softmax(&(0..=position).map(score).collect::<Vec<_>>());
                let mut out = vec![0.0; dim];
                for (p, weight) in weights.iter().enumerate() {
                    add(&mut out, &values[p][kv * dim..(kv + 1) * dim], *weight);
                }
                attended.extend(out);
            }
            add(&mut hidden[position], &o.times(&attended), 1.0);
        }
    }

    fn swiglu(&self, [gate, up, down]: &[Matrix; 3], x: &[f64]) -> Vec<f64> {
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let inner = gate
            .times(x)
            .iter()
            .zip(up.times(x))
            .map(|(g, u)| silu(*g) * u)
            .collect::<Vec<_>>();
        down.times(&inner)
    }

    fn feed_forward(&self, layer: u32, hidden: &mut [Vec<f64>]) {
        const ROLES: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];
        let norm = self.layer(layer, "post_attention_norm");
        if !self.config.is_sparse(layer) {
            let mlp = ROLES.map(|role| self.layer(layer, role));
            for hidden in hidden {
                let x = self.norm(hidden, &norm);
                add(hidden, &self.swiglu(&mlp, &x), 1.0);
            }
            return;
        }
        let moe = self.config.moe.as_ref().expect("a sparse model");
        let router = self.layer(layer, "router");
        let shared = (moe.shared_expert_intermediate_size > 0).then(|| {
            let mlp = ROLES.map(|role| self.layer(layer, &format!("shared_{role}")));
            (mlp, self.layer(layer, "shared_expert_gate"))
        });
        for hidden in hidden {
            let x = self.norm(hidden, &norm);
            let scores = softmax(&router.times(&x));
            let mut order: Vec<usize> = (0..scores.len()).collect();
            order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
            order.truncate(moe.num_experts_per_tok as usize);
            let chosen: f64 = order.iter().map(|&expert| scores[expert]).sum();
            let sum = if moe.norm_topk_prob { chosen } else { 1.0 };
            for expert in order {
                let weights =
                    ROLES.map(|role| self.expert(ExpertKey::routed(layer, expert as u32), role));
                add(hidden, &self.swiglu(&weights, &x), scores[expert] / sum);
            }
            if let Some((mlp, gate)) = &shared {
                let gate = 1.0 / (1.0 + (-gate.times(&x)[0]).exp());
                add(hidden, &self.swiglu(mlp, &x), gate);
            }
        }
    }

    /// What the output head sees of each token.
    fn states(&self, tokens: &[u32]) -> Vec<Vec<f64>> {
        let embedding = self.resident("embed_tokens");
        let mut hidden: Vec<_> = tokens
            .iter()
            .map(|&token| embedding.0[token as usize].clone())
            .collect();
        for layer in 0..self.config.num_hidden_layers {
            self.attention(layer, &mut hidden);
            self.feed_forward(layer, &mut hidden);
        }
        let norm = self.resident("norm");
        hidden.iter().map(|x| self.norm(x, &norm)).collect()
    }

    /// Natural-log probabilities of the token after those of `states`.
    fn logprobs(&self, states: &[Vec<f64>]) -> Vec<f64> {
        let head = match self.config.tie_word_embeddings {
            true => self.resident("embed_tokens"),
            false => self.resident("lm_head"),
        };
        let logits = head.times(states.last().unwrap());
        softmax(&logits).into_iter().map(f64::ln).collect()
    }
}

fn check(config: ModelConfig) {
    let model = random_model(config, BlockFormat::F32, SEED);
    for setup in setups(&model, SEED) {
        check_on(setup, &model);
    }
}

fn check_on(mut setup: Setup, model: &TestModel) {
    setup.config.kv_format = KvFormat::F32;
    setup.config.prefill_chunk_tokens = 5;
    let mut request = greedy(Random(SEED).tokens(13, 199), 4);
    request.logprobs = Some(8);
    let engine = setup.start();
    let answer = engine.answer(request.clone());
    let reference = Reference {
        model,
        config: &model.manifest.config,
    };
    let mut tokens = request.prompt;
    for (token, position) in answer.tokens.iter().zip(&answer.logprobs) {
        let expected = reference.logprobs(&reference.states(&tokens));
        for found in &position.as_ref().unwrap().top {
            let expected = expected[found.token as usize];
            let error = (f64::from(found.logprob) - expected).abs();
            assert!(
                error < TOLERANCE,
                "seed {SEED}: {found:?} where {expected} was expected"
            );
        }
        let most = expected.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        assert!(
            expected[*token as usize] > most - TOLERANCE,
            "seed {SEED}: token {token} is not the most likely"
        );
        tokens.push(*token);
    }
    assert_eq!(answer.tokens.len(), 4);
    check_embeddings(&engine, &reference, &tokens);
}

fn check_embeddings(engine: &TestEngine, reference: &Reference, tokens: &[u32]) {
    let states = reference.states(tokens);
    let mut mean = vec![0.0; states[0].len()];
    for state in &states {
        add(&mut mean, state, 1.0 / states.len() as f64);
    }
    for (pooling, expected) in [
        (Pooling::Mean, &mean),
        (Pooling::Last, &states[states.len() - 1]),
    ] {
        let found = engine.embedding(tokens, pooling);
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            let error = (f64::from(*found) - expected).abs();
            assert!(
                error < TOLERANCE,
                "seed {SEED}, {pooling:?}: {found} where {expected} was expected"
            );
        }
    }
}

#[test]
fn a_model_with_dense_and_sparse_layers_computes_what_the_paper_says() {
    check(small_config());
}

#[test]
fn every_family_computes_what_its_paper_says() {
    for (name, config) in families() {
        println!("{name}");
        check(config);
    }
}

#[test]
fn tied_embeddings_and_unscaled_routing_compute_what_the_paper_says() {
    let mut config = small_config();
    config.tie_word_embeddings = true;
    let moe = config.moe.as_mut().expect("a sparse model");
    moe.norm_topk_prob = false;
    moe.dense_layers = vec![];
    check(config);
}
