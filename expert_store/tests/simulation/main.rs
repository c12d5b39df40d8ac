//! Residency under a simulated executor: seeded readers that are slow, fail and hang, lanes that demand, compute,
//! release and give up, clocks that jump, budgets that change, objects that are to stay; with one memory tier and with two.
//!
//! Each event is a step, and after each step the machine's own books are checked ([`Machine::check`]) and compared
//! with a shadow that knows nothing of them: which bytes each slot holds, who is writing where, what each ticket is
//! still owed. A failure prints the seed of its episode; `ODMOE_SIMULATION_SEED=<seed>` runs that one alone.

mod executor;
mod keep;
mod lanes;
mod world;

use world::{Random, World};

const EPISODES: u64 = 250;
const STEPS_PER_EPISODE: usize = 4_200;

struct PrintSeed(u64, usize);

impl Drop for PrintSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "the episode: {} memory tiers, ODMOE_SIMULATION_SEED={}",
                self.1, self.0
            );
        }
    }
}

fn episode(seed: u64, tiers: usize, steps: usize) -> World {
    let _print = PrintSeed(seed, tiers);
    let mut world = World::new(seed, tiers);
    // Whatever happened in a storm, everything asked for ends: in bounded steps once storage works again, and in
    // bounded time where it does not.
    while world.steps < steps {
        world.storm(700);
        if world.random.percent(30) {
            world.silence();
        }
        world.calm();
    }
    world
}

fn simulate(tiers: usize) {
    if let Ok(seed) = std::env::var("ODMOE_SIMULATION_SEED") {
        episode(seed.parse().expect("a number"), tiers, STEPS_PER_EPISODE);
        return;
    }
    let mut random = Random::new(tiers as u64);
    let mut sum = world::Tally::default();
    let mut steps = 0;
    for _ in 0..EPISODES {
        let world = episode(random.next(), tiers, STEPS_PER_EPISODE);
        steps += world.steps;
        sum.add(&world.tally);
    }
    println!("{tiers} tiers, {steps} steps: {sum:?}");
    assert!(steps >= 1_000_000);
    assert!(
        sum.all_happened(tiers),
        "the simulation must reach everything that it is there for: {sum:?}"
    );
}

#[test]
fn a_million_steps_with_one_tier() {
    simulate(1);
}

#[test]
fn a_million_steps_with_two_tiers() {
    simulate(2);
}

/// The same events give the same commands: a recorded trace can be replayed.
#[test]
fn an_episode_replays_exactly() {
    for (seed, tiers) in [(1, 1), (2, 2), (3, 1), (4, 2)] {
        let (a, b) = (episode(seed, tiers, 3_000), episode(seed, tiers, 3_000));
        assert_eq!(a.steps, b.steps);
        assert!(a.log == b.log, "seed {seed}: the commands differ");
    }
}
