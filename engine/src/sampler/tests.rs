use super::*;
use crate::api::TokenLogprob;

const INF: f32 = f32::INFINITY;

fn greedy() -> SamplingParams {
    SamplingParams {
        temperature: 0.0,
        ..SamplingParams::default()
    }
}

/// The token that a fresh sampler chooses.
fn choose(params: SamplingParams, logits: &[f32], position: usize) -> u32 {
    let mut sampler = SequenceSampler::new(params, &[], logits.len());
    sampler.next(&mut logits.to_vec(), position, None).token
}

/// How often each token is drawn at positions 0 .. draws.
fn histogram(params: &SamplingParams, logits: &[f32], draws: usize) -> Vec<u32> {
    let mut counts = vec![0; logits.len()];
    for position in 0..draws {
        counts[choose(params.clone(), logits, position) as usize] += 1;
    }
    counts
}

/// The tokens that are ever drawn.
fn support(params: SamplingParams, logits: &[f32]) -> Vec<usize> {
    let counts = histogram(&params, logits, 2000);
    (0..logits.len())
        .filter(|&token| counts[token] > 0)
        .collect()
}

fn logs(probabilities: &[f32]) -> Vec<f32> {
    probabilities.iter().map(|p| p.ln()).collect()
}

/// Pearson's statistic of counts against probabilities.
fn chi_square(counts: &[u32], probabilities: &[f64]) -> f64 {
    let draws: u32 = counts.iter().sum();
    let term = |(&count, p): (&u32, &f64)| {
        (f64::from(count) - f64::from(draws) * p).powi(2) / (f64::from(draws) * p)
    };
    counts.iter().zip(probabilities).map(term).sum()
}

#[test]
fn temperature_zero_takes_the_first_of_the_most_likely() {
    assert_eq!(choose(greedy(), &[0.5, 2.0, -1.0, 2.0], 0), 1);
    assert_eq!(choose(greedy(), &[-0.0, 0.0], 0), 0);
    assert_eq!(choose(greedy(), &[f32::NAN, -5.0, -INF], 0), 1);
    assert_eq!(choose(greedy(), &[0.0, 1.0, INF, INF], 0), 2);
}

#[test]
fn bias_and_penalties_by_hand() {
    // Prompt 0, 1, 3; answer 3, 3, 4. Bias +4 on 1 and -1 on 4; tokens beyond the vocabulary do nothing.
    // 0: 2 / 1.5; 1: (-1 + 4) / 1.5; 2: untouched; 3: 3 / 1.5 - 0.4 - 2 * 0.3; 4: (-0.25 - 1) * 1.5 - 0.4 - 0.3.
    let params = SamplingParams {
        logit_bias: vec![(1, 4.0), (4, -1.0), (99, 9.0)],
        repetition_penalty: 1.5,
        presence_penalty: 0.4,
        frequency_penalty: 0.3,
        ..greedy()
    };
    let mut sampler = SequenceSampler::new(params, &[0, 1, 3, 99], 6);
    for token in [3, 3, 4] {
        sampler.penalties.count(token);
    }
    let mut logits = [2.0, -1.0, 0.5, 3.0, -0.25, 1.5];
    let sampled = sampler.next(&mut logits, 7, Some(6));
    for (found, expected) in logits.iter().zip([2.0 / 1.5, 2.0, 0.5, 1.0, -2.575, 1.5]) {
        assert!((found - expected).abs() < 1e-6, "{found} for {expected}");
    }
    let logprobs = sampled.logprobs.expect("asked for");
    assert_eq!((sampled.token, logprobs.chosen.token), (1, 1));
    let expected = [
        (1, -1.0010964),
        (5, -1.5010964),
        (0, -1.667763),
        (3, -2.0010964),
        (2, -2.5010964),
        (4, -5.5760964),
    ];
    for (found, (token, logprob)) in logprobs.top.iter().zip(expected) {
        assert_eq!(found.token, token);
        assert!(
            (found.logprob - logprob).abs() < 1e-5,
            "{found:?} for {logprob}"
        );
    }
}

#[test]
fn presence_counts_once_frequency_each_time_and_neither_the_prompt() {
    let after = |presence, frequency, prompt: &[u32]| {
        let params = SamplingParams {
            presence_penalty: presence,
            frequency_penalty: frequency,
            ..greedy()
        };
        let mut sampler = SequenceSampler::new(params, prompt, 2);
        let mut seen = Vec::new();
        for position in 0..3 {
            let mut logits = [8.0, 0.0];
            assert_eq!(sampler.next(&mut logits, position, None).token, 0);
            seen.push(logits[0]);
        }
        seen
    };
    assert_eq!(after(0.5, 0.0, &[0, 0]), [8.0, 7.5, 7.5]);
    assert_eq!(after(0.0, 0.5, &[0, 0]), [8.0, 7.5, 7.0]);
    assert_eq!(after(0.5, 0.5, &[1]), [8.0, 7.0, 6.5]);
}

#[test]
fn repetition_counts_prompt_and_answer_once() {
    let params = SamplingParams {
        repetition_penalty: 2.0,
        ..greedy()
    };
    let mut sampler = SequenceSampler::new(params, &[1, 1], 3);
    let mut first = [8.0, -1.0, 1.0];
    sampler.next(&mut first, 0, None);
    assert_eq!(first, [8.0, -2.0, 1.0]);
    for position in 1..3 {
        let mut logits = [8.0, -1.0, 1.0];
        sampler.next(&mut logits, position, None);
        assert_eq!(logits, [4.0, -2.0, 1.0]);
    }
}

#[test]
fn logprobs_come_before_temperature_and_cuts() {
    let logits = logs(&[0.5, 0.25, 0.25]);
    let params = SamplingParams {
        temperature: 0.1,
        top_k: 1,
        ..SamplingParams::default()
    };
    let mut sampler = SequenceSampler::new(params, &[], 3);
    let sampled = sampler
        .next(&mut logits.clone(), 0, Some(2))
        .logprobs
        .expect("asked for");
    let close = |found: TokenLogprob, token, p: f32| {
        found.token == token && (found.logprob - p.ln()).abs() < 1e-6
    };
    assert!(close(sampled.chosen, 0, 0.5));
    assert!(
        sampled.top.len() == 2 && close(sampled.top[0], 0, 0.5) && close(sampled.top[1], 1, 0.25)
    );
    let all = sampler
        .next(&mut logits.clone(), 0, Some(u32::MAX))
        .logprobs
        .expect("asked for");
    assert_eq!(all.top.len(), 3);
    let none = sampler
        .next(&mut logits.clone(), 0, Some(0))
        .logprobs
        .expect("asked for");
    assert!(none.top.is_empty());
    assert_eq!(sampler.next(&mut logits.clone(), 0, None).logprobs, None);
}

#[test]
fn cuts_keep_the_right_tokens() {
    let logits = logs(&[0.1, 0.4, 0.2, 0.3]);
    let params = |top_k, top_p, min_p| SamplingParams {
        top_k,
        top_p,
        min_p,
        ..SamplingParams::default()
    };
    assert_eq!(support(params(0, 1.0, 0.0), &logits), [0, 1, 2, 3]);
    assert_eq!(support(params(2, 1.0, 0.0), &logits), [1, 3]);
    assert_eq!(support(params(9, 1.0, 0.0), &logits), [0, 1, 2, 3]);
    assert_eq!(support(params(0, 0.65, 0.0), &logits), [1, 3]);
    assert_eq!(support(params(0, 0.75, 0.0), &logits), [1, 2, 3]);
    assert_eq!(support(params(0, 0.0, 0.0), &logits), [1]);
    assert_eq!(support(params(0, 1.0, 0.49), &logits), [1, 2, 3]);
    assert_eq!(support(params(0, 1.0, 0.6), &logits), [1, 3]);
    assert_eq!(support(params(0, 1.0, 1.0), &logits), [1]);
    // Of what top-k keeps, tokens 1 and 3 are 7/9: enough for 0.75 now.
    assert_eq!(support(params(3, 0.75, 0.0), &logits), [1, 3]);
    assert_eq!(support(params(3, 0.95, 0.6), &logits), [1, 3]);
}

#[test]
fn equal_tokens_are_cut_from_the_higher_id() {
    let params = |top_k, top_p| SamplingParams {
        top_k,
        top_p,
        ..SamplingParams::default()
    };
    assert_eq!(support(params(3, 1.0), &[1.0; 5]), [0, 1, 2]);
    assert_eq!(support(params(0, 0.5), &[1.0; 5]), [0, 1, 2]);
    assert_eq!(
        support(params(0, 0.5), &[1.0; 4]),
        [0, 1],
        "reached exactly"
    );
}

#[test]
fn draws_follow_the_probabilities() {
    let probabilities = [0.02, 0.3, 0.05, 0.13, 0.2, 0.1, 0.08, 0.12];
    let logits = logs(&probabilities);
    let p = probabilities.map(f64::from);
    // 24.32 is the 99.9th percentile of chi-square with 7 degrees of freedom.
    let by_position = histogram(
        &SamplingParams {
            seed: 17,
            ..Default::default()
        },
        &logits,
        20_000,
    );
    assert!(chi_square(&by_position, &p) < 24.32, "{by_position:?}");
    let mut by_seed = vec![0; 8];
    let mut by_choice = vec![0; 8];
    for i in 0..20_000 {
        by_seed[choose(
            SamplingParams {
                seed: i,
                ..Default::default()
            },
            &logits,
            5,
        ) as usize] += 1;
        by_choice[choose(
            SamplingParams {
                choice: i as u32,
                ..Default::default()
            },
            &logits,
            5,
        ) as usize] += 1;
    }
    assert!(chi_square(&by_seed, &p) < 24.32, "{by_seed:?}");
    assert!(chi_square(&by_choice, &p) < 24.32, "{by_choice:?}");
    // At temperature 2 probabilities are as their square roots.
    let roots = p.map(f64::sqrt);
    let sum: f64 = roots.iter().sum();
    let warm = SamplingParams {
        temperature: 2.0,
        seed: 17,
        ..Default::default()
    };
    let by_root = histogram(&warm, &logits, 20_000);
    assert!(
        chi_square(&by_root, &roots.map(|root| root / sum)) < 24.32,
        "{by_root:?}"
    );
    assert!(
        chi_square(&by_root, &p) > 24.32,
        "the test can tell distributions apart"
    );
}

#[test]
fn the_order_of_calls_does_not_matter() {
    let logits: Vec<f32> = (0..500)
        .map(|i| (philox::uniform(3, 0, i) * 8.0) as f32)
        .collect();
    let params = |seed| SamplingParams {
        seed,
        top_p: 0.9,
        ..SamplingParams::default()
    };
    let alone = |seed| -> Vec<u32> {
        (0..100)
            .map(|position| choose(params(seed), &logits, position))
            .collect()
    };
    let mut samplers = [1, 2].map(|seed| SequenceSampler::new(params(seed), &[], 500));
    let mut backwards = [vec![0; 100], vec![0; 100]];
    for position in (0..100).rev() {
        for (sampler, tokens) in samplers.iter_mut().zip(&mut backwards) {
            tokens[position] = sampler.next(&mut logits.clone(), position, Some(3)).token;
        }
    }
    assert_eq!(backwards, [alone(1), alone(2)]);
    assert_ne!(alone(1), alone(2));
}

#[test]
fn a_large_vocabulary_agrees_with_the_plain_algorithm() {
    let vocab = 30_000;
    for case in 0..24 {
        // Gaussian enough: from nearly flat to peaked.
        let spread = [0.5, 2.0, 6.0][case as usize % 3];
        let noise = |i: usize| {
            (0..4)
                .map(|k| philox::uniform(case, k, i) - 0.5)
                .sum::<f64>()
        };
        let logits: Vec<f32> = (0..vocab)
            .map(|i| (noise(i) * spread * 4.0) as f32)
            .collect();
        let params = SamplingParams {
            temperature: [1.0, 0.7][case as usize / 3 % 2],
            top_k: [0, 0, 50, 5000][case as usize / 6],
            top_p: [1.0, 0.95][case as usize / 2 % 2],
            min_p: [0.0, 0.01][case as usize % 2],
            seed: case,
            ..SamplingParams::default()
        };
        for position in 0..4 {
            let uniform = philox::uniform(case, 0, position);
            let expected = plain_draw(&logits, &params, uniform);
            assert_eq!(
                choose(params.clone(), &logits, position),
                expected,
                "case {case}, position {position}"
            );
        }
    }
}

/// The definition: sort everything, cut, add up.
fn plain_draw(logits: &[f32], params: &SamplingParams, uniform: f64) -> u32 {
    let mut sorted: Vec<usize> = (0..logits.len()).collect();
    sorted.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    let greatest = f64::from(logits[sorted[0]]);
    let weight = |token: usize| {
        ((f64::from(logits[token]) - greatest) / f64::from(params.temperature)).exp()
    };
    if params.top_k > 0 {
        sorted.truncate(params.top_k as usize);
    }
    let whole: f64 = sorted.iter().map(|&token| weight(token)).sum();
    let mut reached = 0.0;
    let enough = sorted.iter().position(|&token| {
        reached += weight(token);
        reached >= f64::from(params.top_p) * whole
    });
    if params.top_p < 1.0 {
        sorted.truncate(enough.expect("reached") + 1);
    }
    sorted.retain(|&token| weight(token) >= f64::from(params.min_p));
    sorted.sort();
    let mut target = uniform * sorted.iter().map(|&token| weight(token)).sum::<f64>();
    for &token in &sorted {
        target -= weight(token);
        if target < 0.0 {
            return token as u32;
        }
    }
    unreachable!("only by rounding")
}

#[test]
fn broken_logits_have_a_defined_outcome() {
    let warm = SamplingParams::default;
    assert_eq!(choose(greedy(), &[f32::NAN; 4], 0), 0);
    assert_eq!(choose(greedy(), &[-INF; 4], 0), 0);
    assert_eq!(support(warm(), &[f32::NAN; 4]), [0, 1, 2, 3]);
    assert_eq!(support(warm(), &[0.0, INF, 1.0, INF]), [1, 3]);
    assert_eq!(support(warm(), &[f32::NAN, 0.0, -INF, 0.5]), [1, 3]);
    assert_eq!(
        support(
            SamplingParams {
                temperature: INF,
                ..warm()
            },
            &[-INF, 0.0, 9.0]
        ),
        [1, 2]
    );
    let mut sampler = SequenceSampler::new(greedy(), &[], 2);
    let logprobs = sampler
        .next(&mut [f32::NAN; 2], 0, Some(1))
        .logprobs
        .expect("asked for");
    assert!(
        (logprobs.chosen.logprob - 0.5_f32.ln()).abs() < 1e-6,
        "equally likely"
    );
    let logprobs = sampler
        .next(&mut [1.0, -INF], 1, Some(2))
        .logprobs
        .expect("asked for");
    assert_eq!(
        (logprobs.chosen.logprob, logprobs.top[1].logprob),
        (0.0, -INF)
    );
}

#[test]
fn no_parameter_panics() {
    let wild = [
        0.0,
        -0.0,
        -1.0,
        1e-45,
        1e-30,
        0.5,
        1.0,
        2.0,
        f32::MAX,
        f32::MIN,
        INF,
        -INF,
        f32::NAN,
    ];
    let logits = [-INF, f32::MAX, f32::MIN, 0.0, 1e-45, f32::NAN, 3.0, INF];
    let mut drawn = 0;
    for (i, &value) in wild.iter().enumerate() {
        for (j, &other) in wild.iter().enumerate() {
            let params = SamplingParams {
                logit_bias: vec![(i as u32, value), (u32::MAX, other)],
                repetition_penalty: other,
                presence_penalty: value,
                frequency_penalty: other,
                temperature: value,
                top_k: (i * j) as u32 % 11,
                top_p: other,
                min_p: value,
                seed: 1,
                choice: 0,
            };
            for finite in [8, 7] {
                let mut sampler = SequenceSampler::new(params.clone(), &[1, 2, u32::MAX], finite);
                for position in 0..3 {
                    let sampled = sampler.next(&mut logits[..finite].to_vec(), position, Some(3));
                    assert!((sampled.token as usize) < finite);
                    assert!(
                        sampled
                            .logprobs
                            .is_some_and(|l| !l.chosen.logprob.is_nan() && l.top.len() == 3)
                    );
                    drawn += 1;
                }
            }
        }
    }
    assert_eq!(drawn, 13 * 13 * 2 * 3);
}
