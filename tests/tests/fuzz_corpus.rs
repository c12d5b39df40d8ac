//! The fuzz targets over their seed corpus and seeded mutations of it: what must hold of every input, and how much
//! memory parsing takes. `cargo fuzz` goes on from here (`fuzz/README.md`).

#[path = "fuzz_corpus/allocator.rs"]
mod allocator;

use odmoe_tests::fuzzing::mutate::{Random, mutate};
use odmoe_tests::fuzzing::{Outcome, TARGETS, Target, corpus};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

#[global_allocator]
static ALLOCATOR: allocator::Counting = allocator::Counting;

const MUTATIONS: usize = 10_000;
const SEED: u64 = 1;

/// Every input of a target's folder, by name.
fn inputs(target: &Target) -> BTreeMap<String, Vec<u8>> {
    let folder = corpus::folder(target.name);
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let paths = entries.map(|entry| entry.expect("a readable folder").path());
    let named = paths.map(|path| {
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        (name, std::fs::read(&path).expect("a readable file"))
    });
    named.collect()
}

/// What came of one input; a panic is reported with the input's origin.
fn run(target: &Target, origin: &str, bytes: &[u8]) -> Outcome {
    let held = allocator::most_held(|| (target.parse)(bytes));
    let limit = target.memory_base + target.memory_factor * bytes.len();
    assert!(
        held <= limit,
        "{}, {origin}: parsing {} bytes held {held} bytes, more than {limit}",
        target.name,
        bytes.len()
    );
    let checked = catch_unwind(AssertUnwindSafe(|| (target.check)(bytes)));
    checked.unwrap_or_else(|_| {
        panic!(
            "{}, {origin}: {:?}",
            target.name,
            bytes.escape_ascii().to_string()
        )
    })
}

/// `cargo fuzz` has the same targets.
#[test]
fn every_target_has_its_program() {
    let folder = odmoe_tests::workspace::root().join("fuzz");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).expect("a manifest");
    let programs = std::fs::read_dir(folder.join("fuzz_targets")).expect("a folder");
    assert_eq!(programs.count(), TARGETS.len());
    assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
    for target in TARGETS {
        let path = format!("fuzz_targets/{}.rs", target.name);
        assert!(manifest.contains(&format!("path = \"{path}\"")), "{path}");
        let program = std::fs::read_to_string(folder.join(&path)).expect("a program");
        assert!(program.contains(target.name), "{path}: {program}");
    }
}

#[test]
fn seeds_are_those_that_are_made() {
    for target in TARGETS {
        let on_disk = inputs(&target);
        let made = corpus::seeds(target.name);
        for (name, bytes) in &made {
            assert!(
                on_disk.get(*name) == Some(bytes),
                "{}/{name}: run `cargo run -p odmoe-tests --example make_fuzz_corpus`",
                target.name
            );
        }
        let found = on_disk
            .keys()
            .filter(|name| name.starts_with("found-"))
            .count();
        assert_eq!(
            on_disk.len(),
            made.len() + found,
            "{}: unknown files",
            target.name
        );
    }
}

/// The corpus reaches acceptance and many different refusals, so that mutations begin deep inside the parsers.
#[test]
fn the_corpus_holds() {
    for target in TARGETS {
        let inputs = inputs(&target);
        let mut outcomes: Vec<Outcome> = inputs
            .iter()
            .map(|(name, bytes)| run(&target, name, bytes))
            .collect();
        outcomes.sort();
        outcomes.dedup();
        println!("{}: {} inputs, {outcomes:?}", target.name, inputs.len());
        assert!(outcomes.contains(&Outcome::Accepted), "{}", target.name);
        assert!(outcomes.len() >= 8, "{}: only {outcomes:?}", target.name);
    }
}

#[test]
fn mutations_of_the_corpus_hold() {
    for target in TARGETS {
        let inputs: Vec<(String, Vec<u8>)> = inputs(&target).into_iter().collect();
        let mut random = Random(SEED);
        let mut accepted = 0;
        for number in 0..MUTATIONS {
            let (name, seed) = &inputs[random.below(inputs.len())];
            let (_, other) = &inputs[random.below(inputs.len())];
            let mut bytes = seed.clone();
            mutate(&mut bytes, other, &mut random);
            if random.below(2) == 0 {
                (target.repair)(&mut bytes);
            }
            let origin = format!("seed {SEED}, mutation {number} of {name}");
            accepted += usize::from(run(&target, &origin, &bytes) == Outcome::Accepted);
        }
        println!(
            "{}: {accepted} of {MUTATIONS} mutations accepted",
            target.name
        );
        assert!(
            accepted * 100 >= MUTATIONS,
            "{}: too few mutations pass the first checks",
            target.name
        );
    }
}
