//! What a parallel loop costs: empty bodies back to back, after a pause in which workers still look for work, and
//! after one in which they have gone to sleep.
//!
//! `cargo run --release -p odmoe-backend-cpu --example pool_bench -- [threads]`

#[path = "../src/pool.rs"]
#[allow(dead_code)]
mod pool;

use pool::{Pool, Wake};
use std::time::{Duration, Instant};

/// A pause between two loops and how many loops are timed.
const CASES: [(Duration, usize); 4] = [
    (Duration::ZERO, 200_000),
    (Duration::from_micros(5), 50_000),
    (Duration::from_micros(20), 20_000),
    (Duration::from_millis(1), 500),
];

fn main() {
    let threads = std::env::args()
        .nth(1)
        .map_or(2, |text| text.parse().expect("a number"));
    let pool = Pool::new(threads).expect("threads");
    println!(
        "{:>10} {:>10} {:>10} {:>10}",
        "pause us", "least us", "median us", "99 % us"
    );
    for (pause, loops) in CASES {
        let mut times: Vec<Duration> = (0..loops)
            .map(|_| {
                let start = Instant::now();
                while start.elapsed() < pause {
                    std::hint::spin_loop();
                }
                let start = Instant::now();
                pool.parallel_for(threads, Wake::Sleepers, &|chunk| {
                    std::hint::black_box(chunk);
                });
                start.elapsed()
            })
            .collect();
        times.sort_unstable();
        let us = |part: usize| times[(loops - 1) * part / 100].as_secs_f64() * 1e6;
        println!(
            "{:>10} {:>10.2} {:>10.2} {:>10.2}",
            pause.as_micros(),
            us(0),
            us(50),
            us(99)
        );
    }
}
