//! Which experts the first layer of a random model chooses for random tokens, by a plain forward pass up to the router.
//! `tests/tests/synth_routing.rs` measures every layer of every family in the engine.

use super::*;
use crate::random_model::random::Random;

const TOKENS: usize = 192;
const SEED: u64 = 5;

/// A resident tensor's values by its name.
type Weights = Box<dyn Fn(&str) -> Vec<f32>>;

/// What the router of layer 0 is made of, as rows.
struct FirstLayer {
    model: RandomModel,
    weights: Weights,
}

fn norm(x: &[f32], weight: &[f32]) -> Vec<f32> {
    let scale = 1.0 / (mean_square(x) + 1e-6).sqrt();
    x.iter().zip(weight).map(|(x, w)| x * scale * w).collect()
}

fn product(matrix: &[f32], x: &[f32]) -> Vec<f32> {
    let rows = matrix.chunks_exact(x.len());
    rows.map(|row| dot(row, x)).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Turns pair (i, i + D / 2) by position * base^(-2i / D).
fn rotate(head: &mut [f32], position: usize, base: f32) {
    let half = head.len() / 2;
    for i in 0..half {
        let angle = position as f32 * base.powf(-(i as f32) / half as f32);
        let (sin, cos) = angle.sin_cos();
        let (a, b) = (head[i], head[i + half]);
        (head[i], head[i + half]) = (a * cos - b * sin, a * sin + b * cos);
    }
}

impl FirstLayer {
    /// Heads of a projection, normed and turned.
    fn heads(&self, projected: &[f32], norm_weight: &[f32], position: usize) -> Vec<Vec<f32>> {
        let heads = projected.chunks_exact(self.model.head_dim as usize);
        let turned = heads.map(|head| {
            let mut head = norm(head, norm_weight);
            rotate(&mut head, position, self.model.rope_theta as f32);
            head
        });
        turned.collect()
    }

    /// The experts of each token, of random tokens.
    fn choices(&self) -> Vec<Vec<usize>> {
        let layer = |name: &str| (self.weights)(&format!("layers.0.{name}"));
        let (embedding, hidden) = ((self.weights)("embed_tokens"), self.model.hidden as usize);
        let mut random = Random::new(SEED, "tokens");
        let token = |_| (random.next() % u64::from(self.model.vocab)) as usize;
        let tokens: Vec<usize> = (0..TOKENS).map(token).collect();
        let row = |token: &usize| embedding[token * hidden..][..hidden].to_vec();
        let residual: Vec<Vec<f32>> = tokens.iter().map(row).collect();
        let input = layer("input_norm");
        let normed: Vec<Vec<f32>> = residual.iter().map(|x| norm(x, &input)).collect();
        let project = |name: &str| -> Vec<Vec<f32>> {
            let matrix = layer(name);
            normed.iter().map(|x| product(&matrix, x)).collect()
        };
        let turned = |name: &str, weight: &str| -> Vec<Vec<Vec<f32>>> {
            let weight = layer(weight);
            let all = project(name);
            let places = all.iter().enumerate();
            places.map(|(t, x)| self.heads(x, &weight, t)).collect()
        };
        let (queries, keys) = (turned("q_proj", "q_norm"), turned("k_proj", "k_norm"));
        let values = project("v_proj");
        let (output, after, router) = (
            layer("o_proj"),
            layer("post_attention_norm"),
            layer("router"),
        );
        (0..TOKENS)
            .map(|t| {
                let attended = self.attend(&queries[t], &keys[..=t], &values);
                let added = product(&output, &attended);
                let x: Vec<f32> = residual[t].iter().zip(&added).map(|(x, y)| x + y).collect();
                let scores = product(&router, &norm(&x, &after));
                let mut ranked: Vec<usize> = (0..scores.len()).collect();
                ranked.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
                ranked.truncate(self.model.top_k as usize);
                ranked
            })
            .collect()
    }

    fn attend(
        &self,
        queries: &[Vec<f32>],
        keys: &[Vec<Vec<f32>>],
        values: &[Vec<f32>],
    ) -> Vec<f32> {
        let width = self.model.head_dim as usize;
        let group = (self.model.heads / self.model.kv_heads) as usize;
        let mut attended = Vec::new();
        for (head, query) in queries.iter().enumerate() {
            let shared = head / group;
            let score = |key: &Vec<Vec<f32>>| dot(query, &key[shared]) / (width as f32).sqrt();
            let weights: Vec<f32> = keys.iter().map(|key| score(key).exp()).collect();
            let sum: f32 = weights.iter().sum();
            for column in shared * width..(shared + 1) * width {
                let mixed = weights.iter().zip(values).map(|(w, v)| w * v[column]);
                attended.push(mixed.sum::<f32>() / sum);
            }
        }
        attended
    }
}

/// The share of a token's experts that the token so far behind has too.
fn shared(choices: &[Vec<usize>], distance: usize) -> f64 {
    let pairs = choices.iter().zip(&choices[distance..]);
    let common = pairs.map(|(a, b)| a.iter().filter(|expert| b.contains(expert)).count());
    let (common, all): (Vec<usize>, usize) = (common.collect(), choices[0].len());
    common.iter().sum::<usize>() as f64 / (common.len() * all) as f64
}

fn choices(routing: Routing, experts: u32, top_k: u32) -> Vec<Vec<usize>> {
    let model = RandomModel {
        layers: 1,
        hidden: 512,
        heads: 8,
        kv_heads: 4,
        head_dim: 64,
        experts,
        top_k,
        vocab: 2000,
        rope_theta: 1e6,
        routing,
        format: BlockFormat::F32,
        ..RandomModel::default()
    };
    let fixture = fixture(&model);
    let source = fixture.open();
    let weights = move |name: &str| source_values(&source, &resident(name));
    let layer = FirstLayer {
        model,
        weights: Box::new(weights),
    };
    layer.choices()
}

#[test]
fn reuse_keeps_a_third_to_half_of_the_experts_and_forgets() {
    for (experts, top_k) in [(128, 8), (64, 8), (8, 2)] {
        let chance = f64::from(top_k) / f64::from(experts);
        let choices = choices(Routing::Reuse, experts, top_k);
        let (next, far) = (shared(&choices, 1), shared(&choices, 64));
        let report = format!("{top_k} of {experts}: next {next:.3}, 64 on {far:.3}, seed {SEED}");
        assert!((0.3..0.5).contains(&next), "{report}");
        assert!(far < 1.5 * chance, "{report}");
        // No set of experts is hot throughout.
        let mut uses = vec![0usize; experts as usize];
        choices
            .iter()
            .flatten()
            .for_each(|expert| uses[*expert] += 1);
        uses.sort_unstable_by(|a, b| b.cmp(a));
        let hottest: usize = uses[..experts as usize / 8].iter().sum();
        assert!(hottest * 2 < TOKENS * top_k as usize, "{report}: {uses:?}");
    }
}

#[test]
fn uniform_shares_experts_as_chance_has_it() {
    for (experts, top_k) in [(128, 8), (8, 2)] {
        let chance = f64::from(top_k) / f64::from(experts);
        let next = shared(&choices(Routing::Uniform, experts, top_k), 1);
        assert!(
            (0.7 * chance..1.3 * chance).contains(&next),
            "{top_k} of {experts}: {next:.3}"
        );
    }
}
