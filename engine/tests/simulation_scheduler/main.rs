//! Millions of seeded steps of the scheduler: requests, cancellations, lanes that end in any order, lanes that are
//! dropped, tiny caches. A shadow of the KV cache checks that every position of every sequence is computed with the
//! right token, in blocks that nobody else writes while they matter.
//!
//! `ODMOE_SIMULATION_SEED=n` runs episode n alone.

mod checks;
mod events;
mod random;
mod reached;

use events::Simulation;
use reached::Reached;

const EPISODES: u64 = 4000;

/// Says which episode failed.
struct SeedOnPanic(u64);

impl Drop for SeedOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "the scheduler's simulation failed: ODMOE_SIMULATION_SEED={}",
                self.0
            );
        }
    }
}

#[test]
fn a_million_steps() {
    let chosen = std::env::var("ODMOE_SIMULATION_SEED").ok();
    let chosen = chosen.map(|seed| {
        seed.parse::<u64>()
            .expect("ODMOE_SIMULATION_SEED is a number")
    });
    let seeds = chosen.map_or(0..EPISODES, |seed| seed..seed + 1);
    let mut reached = Reached::default();
    for seed in seeds {
        let _guard = SeedOnPanic(seed);
        Simulation::new(seed, &mut reached).episode();
    }
    println!("{reached:?}");
    if chosen.is_none() {
        reached.check();
    }
}
